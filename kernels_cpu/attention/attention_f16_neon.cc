#include "attention/attention.h"
#include "attention/lanes_neon.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_neon;
const Kernel ei_kernel_attention_f16_neon(EI_ISA_NEON, attend<NeonLanes>);

}  // namespace ei
