#include <immintrin.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of VPDPBUSD; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
    __m256i sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = _mm256_setzero_si256();
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            sum[i] = _mm256_dpbusd_avx_epi32(sum[i], a, b);
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 32;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_avxvnni;
const Kernel ei_kernel_probe_int8_avxvnni(EI_ISA_AVXVNNI, run);

}  // namespace ei
