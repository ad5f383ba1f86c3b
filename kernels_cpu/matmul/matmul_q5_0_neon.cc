#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_0_neon;
const Kernel ei_kernel_matmul_q5_0_neon(EI_ISA_NEON, EI_FORMAT_Q5_0, matmul<Zero32<Neon, FiveBitWeights>>);

}  // namespace ei
