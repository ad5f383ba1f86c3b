#include "attention/lanes_avx2.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_gelu_avx2;
const Kernel ei_kernel_gate_gelu_avx2(EI_ISA_AVX2, kGelu, gate<Avx2Lanes, Gelu>);

}  // namespace ei
