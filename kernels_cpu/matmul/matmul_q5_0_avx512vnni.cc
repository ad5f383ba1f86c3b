#include "matmul/avx512vnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_0_avx512vnni;
const Kernel ei_kernel_matmul_q5_0_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q5_0, matmul_zero32<UnpackFiveBits>);

}  // namespace ei
