#include <arm_neon.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of SDOT; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
    int32x4_t sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = vdupq_n_s32(0);
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            sum[i] = vdotq_s32(sum[i], a, b);
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 16;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_neon_dotprod;
const Kernel ei_kernel_probe_int8_neon_dotprod(EI_ISA_NEON_DOTPROD, run);

}  // namespace ei
