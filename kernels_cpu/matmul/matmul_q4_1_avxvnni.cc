#include "matmul/avxvnni.h"

namespace ei {

extern const Kernel ei_kernel_matmul_q4_1_avxvnni;
const Kernel ei_kernel_matmul_q4_1_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q4_1, matmul_min32<NibbleWeights>);

}  // namespace ei
