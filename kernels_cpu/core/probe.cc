// The two limits a matrix product runs into: how fast weights arrive from memory, and how fast int8 products are summed.
#include "core/isa.h"
#include "core/kernel.h"

namespace {

// The probe of this ISA, or of the best that it builds on: AVX-VNNI reads memory as AVX2 does.
const ei::Kernel *runnable(ei::Op op, int32_t isa) {
    if (isa < 0 || isa >= EI_ISA_COUNT || !(ei_capabilities() & ei::isa_bit(isa))) return nullptr;
    for (uint32_t mask = ei::isa_chain(isa); mask != 0; mask &= ~ei::isa_bit(ei::best_of(mask))) {
        if (const ei::Kernel *kernel = ei::find_kernel(op, ei::best_of(mask))) return kernel;
    }
    return nullptr;
}

}  // namespace

extern "C" {

uint64_t ei_probe_read(int32_t isa, const void *buffer, size_t n_bytes) {
    const ei::Kernel *kernel = runnable(ei::Op::probe_read, isa);
    return kernel ? kernel->probe_read(buffer, n_bytes) : 0;
}

uint64_t ei_probe_int8(int32_t isa, uint64_t n_rounds) {
    const ei::Kernel *kernel = runnable(ei::Op::probe_int8, isa);
    return kernel ? kernel->probe_int8(n_rounds) : 0;
}

}  // extern "C"
