#include <immintrin.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of VPDPBUSD; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    __m512i sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_setzero_si512();
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 64;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_avx512vnni;
const Kernel ei_kernel_probe_int8_avx512vnni(EI_ISA_AVX512VNNI, run);

}  // namespace ei
