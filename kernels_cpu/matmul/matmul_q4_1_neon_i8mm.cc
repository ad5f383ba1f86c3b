#include "matmul/neon_i8mm.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_1_neon_i8mm;
const Kernel ei_kernel_matmul_q4_1_neon_i8mm(EI_ISA_NEON_I8MM, EI_FORMAT_Q4_1, matmul<Min32<I8mm, NibbleWeights>>);

}  // namespace ei
