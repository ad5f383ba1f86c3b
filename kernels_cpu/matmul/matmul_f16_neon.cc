#include "matmul/floats_neon.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE float32x4_t widen(const Body &body, int i) { return load_half(body.x + 4 * i); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_f16_neon;
const Kernel ei_kernel_matmul_f16_neon(EI_ISA_NEON, EI_FORMAT_F16, matmul<Floats<Weights>>);

}  // namespace ei
