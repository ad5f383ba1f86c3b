#include "matmul/neon_i8mm.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_k_neon_i8mm;
const Kernel ei_kernel_matmul_q5_k_neon_i8mm(EI_ISA_NEON_I8MM, EI_FORMAT_Q5_K, matmul<Min256<I8mm, FiveBitWeights, BodyQ5_K>>);

}  // namespace ei
