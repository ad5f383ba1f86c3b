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

namespace {

constexpr int32_t kFormatIds = EI_FORMAT_BF16 + 1;

// What choose_kernel answers: every thread asks for each product, so each answer is looked for once.
struct Choices {
    const Kernel *kernel[kOps][kFormatIds][EI_ISA_COUNT];

    Choices() {
        for (int32_t op = 0; op < kOps; ++op) {
            for (int32_t format = 0; format < kFormatIds; ++format) {
                for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) kernel[op][format][isa] = look_for(static_cast<Op>(op), format, isa);
            }
        }
    }

    static const Kernel *look_for(Op op, int32_t format, int32_t isa) {
        if (!(ei_capabilities() & isa_bit(isa))) return nullptr;
        for (uint32_t mask = isa_chain(isa); mask != 0; mask &= ~isa_bit(best_of(mask))) {
            if (const Kernel *kernel = find_kernel(op, format, best_of(mask))) return kernel;
        }
        return nullptr;
    }
};

}  // namespace

const Kernel *choose_kernel(Op op, int32_t format, int32_t isa) {
    // Made by whoever asks first, while others wait; later calls look at one flag.
    static const Choices choices;
    if (format < 0 || format >= kFormatIds || isa < 0 || isa >= EI_ISA_COUNT) return nullptr;
    return choices.kernel[static_cast<int32_t>(op)][format][isa];
}

uint32_t built_isas() {
    uint32_t mask = 0;
    for (const Kernel *kernel : kTable) mask |= isa_bit(kernel->isa);
    return mask;
}

}  // namespace ei
