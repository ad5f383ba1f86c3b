#include "attention/attention.h"
#include "attention/kv_f16.h"
#include "attention/lanes_scalar.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_scalar;
const Kernel ei_kernel_attention_f16_scalar(EI_ISA_SCALAR, EI_FORMAT_F16,
    attend<ScalarLanes, HalfKeys<ScalarLanes>, HalfValues<ScalarLanes>>);

}  // namespace ei
