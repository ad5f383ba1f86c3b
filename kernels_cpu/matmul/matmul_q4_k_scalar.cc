#include "matmul/scalar.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_k_scalar;
const Kernel ei_kernel_matmul_q4_k_scalar(EI_ISA_SCALAR, EI_FORMAT_Q4_K, matmul_min256<EI_FORMAT_Q4_K, BodyQ4_K>);

}  // namespace ei
