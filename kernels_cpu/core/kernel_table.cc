// Every kernel of this build, from the list that CMake writes (one ei_kernel() line per file).
#include "core/isa.h"
#include "core/kernel.h"

namespace ei {

#define EI_KERNEL(op, format, isa) extern const Kernel ei_kernel_##op##_##format##_##isa;
#include "kernel_list.inc"
#undef EI_KERNEL

namespace {

const Kernel *const kTable[] = {
#define EI_KERNEL(op, format, isa) &ei_kernel_##op##_##format##_##isa,
#include "kernel_list.inc"
#undef EI_KERNEL
};

}  // namespace

const Kernel *find_kernel(Op op, int32_t isa) {
    for (const Kernel *kernel : kTable) {
        if (kernel->op == op && kernel->isa == isa) return kernel;
    }
    return nullptr;
}

uint32_t built_isas() {
    uint32_t mask = 0;
    for (const Kernel *kernel : kTable) mask |= isa_bit(kernel->isa);
    return mask;
}

}  // namespace ei
