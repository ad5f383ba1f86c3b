#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_k_neon_dotprod;
const Kernel ei_kernel_matmul_q5_k_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q5_K, matmul<Min256<Dotprod, FiveBitWeights, BodyQ5_K>>);

}  // namespace ei
