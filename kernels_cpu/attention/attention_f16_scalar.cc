#include "attention/attention.h"
#include "attention/lanes_scalar.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_scalar;
const Kernel ei_kernel_attention_f16_scalar(EI_ISA_SCALAR, attend<ScalarLanes>);

}  // namespace ei
