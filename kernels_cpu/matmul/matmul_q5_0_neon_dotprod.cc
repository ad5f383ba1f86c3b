#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_0_neon_dotprod;
const Kernel ei_kernel_matmul_q5_0_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q5_0, matmul<Zero32<Dotprod, FiveBitWeights>>);

}  // namespace ei
