#include "matmul/floats_scalar.h"

namespace ei {
namespace {

float widen(const BodyF16 &body, int row) { return brain_to_float(body.x[row]); }

}  // namespace

extern const Kernel ei_kernel_matmul_bf16_scalar;
const Kernel ei_kernel_matmul_bf16_scalar(EI_ISA_SCALAR, EI_FORMAT_BF16, matmul_floats<BodyF16, widen>);

}  // namespace ei
