#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_0_neon;
const Kernel ei_kernel_matmul_q4_0_neon(EI_ISA_NEON, EI_FORMAT_Q4_0, matmul<Zero32<Neon, NibbleWeights>>);

}  // namespace ei
