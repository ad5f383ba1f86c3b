#include "matmul/avx2.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_0_avx2;
const Kernel ei_kernel_matmul_q4_0_avx2(EI_ISA_AVX2, EI_FORMAT_Q4_0, matmul_zero32<NibbleWeights>);

}  // namespace ei
