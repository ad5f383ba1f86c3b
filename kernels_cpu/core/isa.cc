#include "core/isa.h"

#include <atomic>
#include <cstring>

namespace ei {
namespace {

constexpr const char *kNames[EI_ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512vnni", "neon", "neon_dotprod", "neon_i8mm"};

// The mask that is forced, 0 for none. Relaxed is enough: a mask stands alone.
std::atomic<uint32_t> g_forced{0};

}  // namespace

uint32_t isa_chain(int32_t isa) {
    switch (isa) {
        case EI_ISA_AVX2: return isa_bit(EI_ISA_AVX2) | isa_bit(EI_ISA_SCALAR);
        case EI_ISA_AVXVNNI: return isa_bit(EI_ISA_AVXVNNI) | isa_chain(EI_ISA_AVX2);
        case EI_ISA_AVX512VNNI: return isa_bit(EI_ISA_AVX512VNNI) | isa_chain(EI_ISA_AVX2);
        case EI_ISA_NEON: return isa_bit(EI_ISA_NEON) | isa_bit(EI_ISA_SCALAR);
        case EI_ISA_NEON_DOTPROD: return isa_bit(EI_ISA_NEON_DOTPROD) | isa_chain(EI_ISA_NEON);
        case EI_ISA_NEON_I8MM: return isa_bit(EI_ISA_NEON_I8MM) | isa_chain(EI_ISA_NEON_DOTPROD);
        default: return isa_bit(EI_ISA_SCALAR);
    }
}

int32_t best_of(uint32_t mask) {
    for (int32_t isa = EI_ISA_COUNT - 1; isa > 0; --isa) {
        if (mask & isa_bit(isa)) return isa;
    }
    return EI_ISA_SCALAR;
}

}  // namespace ei

extern "C" {

int32_t ei_abi_version(void) { return EI_ABI_VERSION; }

const char *ei_version(void) { return EI_VERSION; }

const char *ei_isa_name(int32_t isa) { return isa >= 0 && isa < EI_ISA_COUNT ? ei::kNames[isa] : nullptr; }

uint32_t ei_capabilities(void) {
    static const uint32_t mask = (ei::detect_isas() & ei::built_isas()) | ei::isa_bit(EI_ISA_SCALAR);
    return mask;
}

uint32_t ei_enabled(void) {
    const uint32_t forced = ei::g_forced.load(std::memory_order_relaxed);
    return forced ? forced : ei_capabilities();
}

int32_t ei_best_isa(void) { return ei::best_of(ei_enabled()); }

int32_t ei_force_isa(const char *name) {
    if (name == nullptr) {
        ei::g_forced.store(0, std::memory_order_relaxed);
        return EI_OK;
    }
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (std::strcmp(name, ei::kNames[isa]) != 0) continue;
        if (!(ei_capabilities() & ei::isa_bit(isa))) return EI_UNSUPPORTED;
        ei::g_forced.store(ei::isa_chain(isa) & ei_capabilities(), std::memory_order_relaxed);
        return EI_OK;
    }
    return EI_UNKNOWN;
}

}  // extern "C"
