// CPUID and XGETBV (Intel SDM vol. 2A and vol. 1 chapter 13): a feature counts only when the system also saves its registers.
#include "core/isa.h"

#ifdef _MSC_VER
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif

namespace ei {
namespace {

struct Leaf {
    uint32_t eax, ebx, ecx, edx;
};

#ifdef _MSC_VER
Leaf cpuid(uint32_t leaf, uint32_t subleaf) {
    int out[4];
    __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
    return {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]), static_cast<uint32_t>(out[3])};
}

uint64_t xgetbv0() { return _xgetbv(0); }
#else
Leaf cpuid(uint32_t leaf, uint32_t subleaf) {
    Leaf out{};
    __cpuid_count(leaf, subleaf, out.eax, out.ebx, out.ecx, out.edx);
    return out;
}

// Written as bytes because the intrinsic would need -mxsave, which this file must not be compiled with.
uint64_t xgetbv0() {
    uint32_t low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t{high} << 32) | low;
}
#endif

constexpr bool bit(uint32_t word, int index) { return (word >> index) & 1; }

}  // namespace

uint32_t detect_isas() {
    uint32_t mask = isa_bit(EI_ISA_SCALAR);
    const uint32_t last = cpuid(0, 0).eax;
    if (last < 7) return mask;
    const Leaf one = cpuid(1, 0), seven = cpuid(7, 0);
    const bool osxsave = bit(one.ecx, 27), avx = bit(one.ecx, 28);
    if (!osxsave || !avx) return mask;
    const uint64_t saved = xgetbv0();
    const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
    const bool fma = bit(one.ecx, 12), f16c = bit(one.ecx, 29), avx2 = bit(seven.ebx, 5);
    if (!ymm || !fma || !f16c || !avx2) return mask;
    mask |= isa_bit(EI_ISA_AVX2);
    if (seven.eax >= 1 && bit(cpuid(7, 1).eax, 4)) mask |= isa_bit(EI_ISA_AVXVNNI);
    const bool avx512 = bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31);
    if (zmm && avx512 && bit(seven.ecx, 11)) mask |= isa_bit(EI_ISA_AVX512VNNI);
    return mask;
}

}  // namespace ei
