// Which instruction sets exist, which this machine runs, and which kernels may be chosen from.
#ifndef EI_CORE_ISA_H
#define EI_CORE_ISA_H

#include "edgeinfer_kernels.h"

namespace ei {

constexpr uint32_t isa_bit(int32_t isa) { return uint32_t{1} << isa; }

// Mask of what the processor and the operating system support, whatever this build holds. One per architecture: isa_x86.cc, ...
uint32_t detect_isas();

// Mask of what this build holds: every ISA that some kernel was compiled for (kernel_table.cc).
uint32_t built_isas();

// The ISA and those that its kernels may fall back to.
uint32_t isa_chain(int32_t isa);

// The best ISA of a mask: the highest number, since the enum goes from old to new.
int32_t best_of(uint32_t mask);

}  // namespace ei
#endif
