#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_1_neon;
const Kernel ei_kernel_matmul_q5_1_neon(EI_ISA_NEON, EI_FORMAT_Q5_1, matmul<Min32<Neon, FiveBitWeights>>);

}  // namespace ei
