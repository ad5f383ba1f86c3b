#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q6_k_neon;
const Kernel ei_kernel_matmul_q6_k_neon(EI_ISA_NEON, EI_FORMAT_Q6_K, matmul<Zero256<Neon>>);

}  // namespace ei
