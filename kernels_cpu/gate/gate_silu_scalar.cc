#include "attention/lanes_scalar.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_silu_scalar;
const Kernel ei_kernel_gate_silu_scalar(EI_ISA_SCALAR, kSilu, gate<ScalarLanes, Silu>);

}  // namespace ei
