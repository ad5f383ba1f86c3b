// Architectures that we have no vector kernels for.
#include "core/isa.h"

namespace ei {

uint32_t detect_isas() { return isa_bit(EI_ISA_SCALAR); }

}  // namespace ei
