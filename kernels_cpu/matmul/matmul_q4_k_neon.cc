#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_k_neon;
const Kernel ei_kernel_matmul_q4_k_neon(EI_ISA_NEON, EI_FORMAT_Q4_K, matmul<Min256<Neon, NibbleWeights, BodyQ4_K>>);

}  // namespace ei
