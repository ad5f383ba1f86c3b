// 16 logits at a time: what is not at most the bound exceeds it or is NaN, so one comparison finds all that matter.
#include <arm_neon.h>

#include "top_k/collect.h"

namespace ei {
namespace {

int64_t top_k(const TopKArgs &args) {
    Collector collector(args);
    int64_t i = 0;
    for (; i + 16 <= args.n; i += 16) {
        const float32x4_t bound = vdupq_n_f32(collector.bound);
        uint32x4_t all_within = vdupq_n_u32(0xffffffff);
        EI_UNROLL
        for (int r = 0; r < 4; ++r) all_within = vandq_u32(all_within, vcleq_f32(vld1q_f32(args.logits + i + 4 * r), bound));
        if (vminvq_u32(all_within) != 0) continue;
        for (int j = 0; j < 16; ++j) collector.offer(args.logits[i + j], i + j);
    }
    for (; i < args.n; ++i) collector.offer(args.logits[i], i);
    return collector.result();
}

}  // namespace

extern const Kernel ei_kernel_top_k_f32_neon;
const Kernel ei_kernel_top_k_f32_neon(EI_ISA_NEON, top_k);

}  // namespace ei
