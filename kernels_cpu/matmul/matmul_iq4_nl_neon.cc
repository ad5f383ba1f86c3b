#include "matmul/neon.h"

namespace ei {

extern const Kernel ei_kernel_matmul_iq4_nl_neon;
const Kernel ei_kernel_matmul_iq4_nl_neon(EI_ISA_NEON, EI_FORMAT_IQ4_NL, matmul<Zero32<Neon, TableWeights<false>>>);

}  // namespace ei
