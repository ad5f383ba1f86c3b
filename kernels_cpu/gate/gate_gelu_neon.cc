#include "attention/lanes_neon.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_gelu_neon;
const Kernel ei_kernel_gate_gelu_neon(EI_ISA_NEON, kGelu, gate<NeonLanes, Gelu>);

}  // namespace ei
