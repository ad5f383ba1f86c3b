#include "matmul/avx512vnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_1_avx512vnni;
const Kernel ei_kernel_matmul_q4_1_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q4_1, matmul_min32<UnpackNibbles>);

}  // namespace ei
