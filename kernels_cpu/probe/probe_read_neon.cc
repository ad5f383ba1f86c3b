#include <arm_neon.h>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

uint64_t read(const void *buffer, size_t n_bytes) {
    const uint64_t *at = static_cast<const uint64_t *>(buffer), *const end = at + n_bytes / 8;
    uint64x2_t sum[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
    for (; at < end; at += 8) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = vaddq_u64(sum[i], vld1q_u64(at + 2 * i));
    }
    return vaddvq_u64(vaddq_u64(vaddq_u64(sum[0], sum[1]), vaddq_u64(sum[2], sum[3]))) + 1;
}

}  // namespace

extern const Kernel ei_kernel_probe_read_neon;
const Kernel ei_kernel_probe_read_neon(EI_ISA_NEON, read);

}  // namespace ei
