#include "matmul/floats_avx2.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE __m256 widen(const Body &body, int half) { return load_half(body.x + 8 * half); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_f16_avx2;
const Kernel ei_kernel_matmul_f16_avx2(EI_ISA_AVX2, EI_FORMAT_F16, matmul_floats<Weights>);

}  // namespace ei
