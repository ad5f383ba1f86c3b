// The two limits a matrix product runs into: how fast weights arrive from memory, and how fast int8 products are summed.
#include "core/kernel.h"

extern "C" {

uint64_t ei_probe_read(int32_t isa, const void *buffer, size_t n_bytes) {
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::probe_read, 0, isa);
    return kernel ? kernel->probe_read(buffer, n_bytes) : 0;
}

uint64_t ei_probe_int8(int32_t isa, uint64_t n_rounds) {
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::probe_int8, 0, isa);
    return kernel ? kernel->probe_int8(n_rounds) : 0;
}

}  // extern "C"
