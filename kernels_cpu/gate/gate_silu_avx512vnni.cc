#include "attention/lanes_avx512.h"
#include "gate/gate.h"

namespace ei {

extern const Kernel ei_kernel_gate_silu_avx512vnni;
const Kernel ei_kernel_gate_silu_avx512vnni(EI_ISA_AVX512VNNI, kSilu, gate<Avx512Lanes, Silu>);

}  // namespace ei
