#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_k_neon;
const Kernel ei_kernel_matmul_q5_k_neon(EI_ISA_NEON, EI_FORMAT_Q5_K, matmul<Min256<Neon, FiveBitWeights, BodyQ5_K>>);

}  // namespace ei
