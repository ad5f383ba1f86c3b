#include "core/kernel.h"

namespace ei {
namespace {

uint64_t read(const void *buffer, size_t n_bytes) {
    const uint64_t *at = static_cast<const uint64_t *>(buffer), *const end = at + n_bytes / 8;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (; at < end; at += 4) a += at[0], b += at[1], c += at[2], d += at[3];
    return (a + b) + (c + d) + 1;
}

}  // namespace

extern const Kernel ei_kernel_probe_read_scalar;
const Kernel ei_kernel_probe_read_scalar(EI_ISA_SCALAR, read);

}  // namespace ei
