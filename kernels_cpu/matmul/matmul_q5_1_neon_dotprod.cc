#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_1_neon_dotprod;
const Kernel ei_kernel_matmul_q5_1_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q5_1, matmul<Min32<Dotprod, FiveBitWeights>>);

}  // namespace ei
