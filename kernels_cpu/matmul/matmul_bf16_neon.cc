#include "matmul/floats_neon.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE float32x4_t widen(const Body &body, int i) {
        return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(body.x + 4 * i), 16));
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_bf16_neon;
const Kernel ei_kernel_matmul_bf16_neon(EI_ISA_NEON, EI_FORMAT_BF16, matmul<Floats<Weights>>);

}  // namespace ei
