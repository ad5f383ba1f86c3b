#include "matmul/neon_i8mm.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q6_k_neon_i8mm;
const Kernel ei_kernel_matmul_q6_k_neon_i8mm(EI_ISA_NEON_I8MM, EI_FORMAT_Q6_K, matmul<Zero256<I8mm>>);

}  // namespace ei
