#include "attention/attention.h"
#include "attention/kv_f16.h"
#include "attention/lanes_neon.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_neon;
const Kernel ei_kernel_attention_f16_neon(EI_ISA_NEON, EI_FORMAT_F16,
    attend<NeonLanes, HalfKeys<NeonLanes>, HalfValues<NeonLanes>>);

}  // namespace ei
