#include <immintrin.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of VPMADDUBSW, VPMADDWD and VPADDD, which is
// what an exact int8 product costs without VNNI; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    const __m256i b = _mm256_set1_epi8(-2), one = _mm256_set1_epi16(1);
    __m256i sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = _mm256_setzero_si256();
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(sum[i], b), one));
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 32;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_avx2;
const Kernel ei_kernel_probe_int8_avx2(EI_ISA_AVX2, run);

}  // namespace ei
