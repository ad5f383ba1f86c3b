#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_k_neon_dotprod;
const Kernel ei_kernel_matmul_q4_k_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q4_K, matmul<Min256<Dotprod, NibbleWeights, BodyQ4_K>>);

}  // namespace ei
