// What a kernel file offers: one constant of the type below, found by core/kernel_table.cc under the name ei_kernel_<op>_<format>_<isa>.
#ifndef EI_CORE_KERNEL_H
#define EI_CORE_KERNEL_H

#include "edgeinfer_kernels.h"

namespace ei {

// A stream through memory; see ei_probe_read.
using ProbeRead = uint64_t (*)(const void *buffer, size_t n_bytes);
// Register-only multiply-accumulate; see ei_probe_int8.
using ProbeInt8 = uint64_t (*)(uint64_t n_rounds);

enum class Op : int32_t { probe_read, probe_int8 };

struct Kernel {
    Op op;
    int32_t isa;
    union {
        ProbeRead probe_read;
        ProbeInt8 probe_int8;
    };

    constexpr Kernel(int32_t isa_, ProbeRead run) : op(Op::probe_read), isa(isa_), probe_read(run) {}
    constexpr Kernel(int32_t isa_, ProbeInt8 run) : op(Op::probe_int8), isa(isa_), probe_int8(run) {}
};

// The kernel of exactly this ISA, or null.
const Kernel *find_kernel(Op op, int32_t isa);

}  // namespace ei
#endif
