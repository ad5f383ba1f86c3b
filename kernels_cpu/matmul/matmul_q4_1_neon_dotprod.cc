#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_1_neon_dotprod;
const Kernel ei_kernel_matmul_q4_1_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q4_1, matmul<Min32<Dotprod, NibbleWeights>>);

}  // namespace ei
