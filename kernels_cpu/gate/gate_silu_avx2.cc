#include "attention/lanes_avx2.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_silu_avx2;
const Kernel ei_kernel_gate_silu_avx2(EI_ISA_AVX2, kSilu, gate<Avx2Lanes, Silu>);

}  // namespace ei
