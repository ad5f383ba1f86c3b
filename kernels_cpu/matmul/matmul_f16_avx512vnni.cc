#include "matmul/floats_avx512vnni.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE __m512 widen(const Body &body) { return load_half(body.x); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_f16_avx512vnni;
const Kernel ei_kernel_matmul_f16_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_F16, matmul_floats<Weights>);

}  // namespace ei
