#include "matmul/avx512vnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q8_0_avx512vnni;
const Kernel ei_kernel_matmul_q8_0_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q8_0, matmul_zero32<UnpackBytes>);

}  // namespace ei
