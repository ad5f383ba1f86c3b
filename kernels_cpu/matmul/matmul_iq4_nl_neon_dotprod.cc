#include "matmul/neon_dotprod.h"

namespace ei {

extern const Kernel ei_kernel_matmul_iq4_nl_neon_dotprod;
const Kernel ei_kernel_matmul_iq4_nl_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_IQ4_NL, matmul<Zero32<Dotprod, TableWeights<false>>>);

}  // namespace ei
