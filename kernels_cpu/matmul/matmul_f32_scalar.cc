#include "matmul/floats_scalar.h"

namespace ei {
namespace {

float widen(const BodyF32 &body, int row) { return body.x[row]; }

}  // namespace

extern const Kernel ei_kernel_matmul_f32_scalar;
const Kernel ei_kernel_matmul_f32_scalar(EI_ISA_SCALAR, EI_FORMAT_F32, matmul_floats<BodyF32, widen>);

}  // namespace ei
