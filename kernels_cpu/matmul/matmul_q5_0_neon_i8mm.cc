#include "matmul/neon_i8mm.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_0_neon_i8mm;
const Kernel ei_kernel_matmul_q5_0_neon_i8mm(EI_ISA_NEON_I8MM, EI_FORMAT_Q5_0, matmul<Zero32<I8mm, FiveBitWeights>>);

}  // namespace ei
