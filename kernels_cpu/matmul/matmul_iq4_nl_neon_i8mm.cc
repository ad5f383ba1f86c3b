#include "matmul/neon_i8mm.h"

namespace ei {

extern const Kernel ei_kernel_matmul_iq4_nl_neon_i8mm;
const Kernel ei_kernel_matmul_iq4_nl_neon_i8mm(EI_ISA_NEON_I8MM, EI_FORMAT_IQ4_NL, matmul<Zero32<I8mm, TableWeights<true>>>);

}  // namespace ei
