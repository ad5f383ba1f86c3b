// AArch64: NEON is part of the architecture; the system says whether SDOT and SMMLA are there.
#include "core/isa.h"

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ei {
namespace {

struct Features {
    bool dotprod, i8mm;
};

#if defined(__APPLE__)
bool feature(const char *name) {
    int32_t value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

Features detect() { return {feature("hw.optional.arm.FEAT_DotProd"), feature("hw.optional.arm.FEAT_I8MM")}; }
#elif defined(_WIN32)
// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE of winnt.h; older SDKs lack the second name.
Features detect() { return {IsProcessorFeaturePresent(43) != 0, IsProcessorFeaturePresent(66) != 0}; }
#elif defined(__linux__)
// HWCAP_ASIMDDP and HWCAP2_I8MM of the kernel's asm/hwcap.h, whose numbers never change.
Features detect() { return {((getauxval(AT_HWCAP) >> 20) & 1) != 0, ((getauxval(AT_HWCAP2) >> 13) & 1) != 0}; }
#else
Features detect() { return {false, false}; }
#endif

}  // namespace

uint32_t detect_isas() {
    const Features has = detect();
    uint32_t mask = isa_bit(EI_ISA_SCALAR) | isa_bit(EI_ISA_NEON);
    if (has.dotprod) mask |= isa_bit(EI_ISA_NEON_DOTPROD);
    if (has.dotprod && has.i8mm) mask |= isa_bit(EI_ISA_NEON_I8MM);
    return mask;
}

}  // namespace ei
