#include <arm_neon.h>

#include "quantize/blocks.h"

namespace ei {
namespace {

struct Column {
    template <int kN>
    static EI_FORCE_INLINE float quantize(const float *x, int8_t *q, int32_t (&sums)[kN / 16]) {
        const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
        uint32x4_t largest[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
        for (int i = 0; i < kN; i += 16) {
            EI_UNROLL
            for (int j = 0; j < 4; ++j) {
                largest[j] = vmaxq_u32(largest[j], vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i + 4 * j)), magnitude));
            }
        }
        const Scale scale = scale_of(vmaxvq_u32(vmaxq_u32(vmaxq_u32(largest[0], largest[1]), vmaxq_u32(largest[2], largest[3]))));
        // Infinity times 0 is NaN, which converts to 0 here.
        const float32x4_t factor = vdupq_n_f32(scale.inverse);
        for (int i = 0; i < kN; i += 16) {
            int16x4_t words[4];
            EI_UNROLL
            for (int j = 0; j < 4; ++j) words[j] = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i + 4 * j), factor)));
            const int8x16_t bytes =
                vcombine_s8(vmovn_s16(vcombine_s16(words[0], words[1])), vmovn_s16(vcombine_s16(words[2], words[3])));
            vst1q_s8(q + i, bytes);
            sums[i / 16] = vaddlvq_s8(bytes);
        }
        return scale.d;
    }
};

}  // namespace

extern const Kernel ei_kernel_quantize_q8_neon;
const Kernel ei_kernel_quantize_q8_neon(EI_ISA_NEON, quantize<Column>);

}  // namespace ei
