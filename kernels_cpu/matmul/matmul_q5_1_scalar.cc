#include "matmul/scalar.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_1_scalar;
const Kernel ei_kernel_matmul_q5_1_scalar(EI_ISA_SCALAR, EI_FORMAT_Q5_1, matmul_min32<EI_FORMAT_Q5_1>);

}  // namespace ei
