#include "matmul/avxvnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q5_1_avxvnni;
const Kernel ei_kernel_matmul_q5_1_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q5_1, matmul_min32<FiveBitWeights>);

}  // namespace ei
