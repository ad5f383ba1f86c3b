#include "attention/lanes_neon.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_silu_neon;
const Kernel ei_kernel_gate_silu_neon(EI_ISA_NEON, kSilu, gate<NeonLanes, Silu>);

}  // namespace ei
