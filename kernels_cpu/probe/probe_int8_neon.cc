#include <arm_neon.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of SMULL, SMLAL and SADALP, which is what an
// int8 product costs without SDOT; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    int8x16_t a = vdupq_n_s8(3);
    int8x8_t b = vdup_n_s8(-2);
    EI_KEEP(a);
    EI_KEEP(b);
    int32x4_t sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = vdupq_n_s32(0);
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            EI_KEEP(a);
            const int16x8_t low = vmull_s8(vget_low_s8(a), b), both = vmlal_s8(low, vget_high_s8(a), b);
            sum[i] = vpadalq_s16(sum[i], both);
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 16;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_neon;
const Kernel ei_kernel_probe_int8_neon(EI_ISA_NEON, run);

}  // namespace ei
