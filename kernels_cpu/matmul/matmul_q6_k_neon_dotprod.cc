#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q6_k_neon_dotprod;
const Kernel ei_kernel_matmul_q6_k_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q6_K, matmul<Zero256<Dotprod>>);

}  // namespace ei
