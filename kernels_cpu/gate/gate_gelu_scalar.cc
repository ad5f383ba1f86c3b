#include "attention/lanes_scalar.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_gelu_scalar;
const Kernel ei_kernel_gate_gelu_scalar(EI_ISA_SCALAR, kGelu, gate<ScalarLanes, Gelu>);

}  // namespace ei
