// 64 logits at a time: "not less or equal" holds for what exceeds the bound and for NaN, so one comparison finds all that matter.
#include <immintrin.h>

#include "top_k/collect.h"

namespace ei {
namespace {

int64_t top_k(const TopKArgs &args) {
    Collector collector(args);
    int64_t i = 0;
    for (; i + 64 <= args.n; i += 64) {
        const __m512 bound = _mm512_set1_ps(collector.bound);
        uint64_t over = 0;
        EI_UNROLL
        for (int r = 0; r < 4; ++r) {
            over |= uint64_t{_mm512_cmp_ps_mask(_mm512_loadu_ps(args.logits + i + 16 * r), bound, _CMP_NLE_UQ)} << 16 * r;
        }
        for (int64_t id = i; over != 0; over >>= 1, ++id) {
            if (over & 1) collector.offer(args.logits[id], id);
        }
    }
    for (; i < args.n; ++i) collector.offer(args.logits[i], i);
    return collector.result();
}

}  // namespace

extern const Kernel ei_kernel_top_k_f32_avx512vnni;
const Kernel ei_kernel_top_k_f32_avx512vnni(EI_ISA_AVX512VNNI, top_k);

}  // namespace ei
