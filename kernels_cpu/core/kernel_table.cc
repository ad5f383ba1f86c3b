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

const Kernel *find_kernel(Op op, int32_t format, int32_t isa) {
    for (const Kernel *kernel : kTable) {
        if (kernel->op == op && kernel->format == format && kernel->isa == isa) return kernel;
    }
    return nullptr;
}

const Kernel *choose_kernel(Op op, int32_t format, int32_t isa) {
    if (isa < 0 || isa >= EI_ISA_COUNT || !(ei_capabilities() & isa_bit(isa))) return nullptr;
    for (uint32_t mask = isa_chain(isa); mask != 0; mask &= ~isa_bit(best_of(mask))) {
        if (const Kernel *kernel = find_kernel(op, format, best_of(mask))) return kernel;
    }
    return nullptr;
}

uint32_t built_isas() {
    uint32_t mask = 0;
    for (const Kernel *kernel : kTable) mask |= isa_bit(kernel->isa);
    return mask;
}

}  // namespace ei
