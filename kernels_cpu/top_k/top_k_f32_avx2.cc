// 32 logits at a time: "not less or equal" holds for what exceeds the bound and for NaN, so one comparison finds all that matter.
#include <immintrin.h>

#include "top_k/collect.h"

namespace ei {
namespace {

int64_t top_k(const TopKArgs &args) {
    Collector collector(args);
    int64_t i = 0;
    for (; i + 32 <= args.n; i += 32) {
        const __m256 bound = _mm256_set1_ps(collector.bound);
        __m256 over[4];
        EI_UNROLL
        for (int r = 0; r < 4; ++r) over[r] = _mm256_cmp_ps(_mm256_loadu_ps(args.logits + i + 8 * r), bound, _CMP_NLE_UQ);
        const __m256 any = _mm256_or_ps(_mm256_or_ps(over[0], over[1]), _mm256_or_ps(over[2], over[3]));
        if (_mm256_movemask_ps(any) == 0) continue;
        EI_UNROLL
        for (int r = 0; r < 4; ++r) {
            int64_t id = i + 8 * r;
            for (int bits = _mm256_movemask_ps(over[r]); bits != 0; bits >>= 1, ++id) {
                if (bits & 1) collector.offer(args.logits[id], id);
            }
        }
    }
    for (; i < args.n; ++i) collector.offer(args.logits[i], i);
    return collector.result();
}

}  // namespace

extern const Kernel ei_kernel_top_k_f32_avx2;
const Kernel ei_kernel_top_k_f32_avx2(EI_ISA_AVX2, top_k);

}  // namespace ei
