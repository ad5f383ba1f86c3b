#include "matmul/avxvnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q8_0_avxvnni;
const Kernel ei_kernel_matmul_q8_0_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q8_0, matmul_zero32<ByteWeights>);

}  // namespace ei
