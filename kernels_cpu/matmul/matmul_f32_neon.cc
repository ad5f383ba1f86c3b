#include "matmul/floats_neon.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF32;
    static EI_FORCE_INLINE float32x4_t widen(const Body &body, int i) { return vld1q_f32(body.x + 4 * i); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_f32_neon;
const Kernel ei_kernel_matmul_f32_neon(EI_ISA_NEON, EI_FORMAT_F32, matmul<Floats<Weights>>);

}  // namespace ei
