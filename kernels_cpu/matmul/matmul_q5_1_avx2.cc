#include "matmul/avx2.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_1_avx2;
const Kernel ei_kernel_matmul_q5_1_avx2(EI_ISA_AVX2, EI_FORMAT_Q5_1, matmul_min32<FiveBitWeights>);

}  // namespace ei
