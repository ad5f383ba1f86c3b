#include "matmul/scalar.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_k_scalar;
const Kernel ei_kernel_matmul_q5_k_scalar(EI_ISA_SCALAR, EI_FORMAT_Q5_K, matmul_min256<EI_FORMAT_Q5_K, BodyQ5_K>);

}  // namespace ei
