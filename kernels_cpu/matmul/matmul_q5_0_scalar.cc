#include "matmul/scalar.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_0_scalar;
const Kernel ei_kernel_matmul_q5_0_scalar(EI_ISA_SCALAR, EI_FORMAT_Q5_0, matmul_zero32<EI_FORMAT_Q5_0>);

}  // namespace ei
