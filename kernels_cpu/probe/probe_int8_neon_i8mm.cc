#include <arm_neon.h>

#include "core/compiler.h"
#include "core/kernel.h"
#include "probe/keep.h"

namespace ei {
namespace {

// Twelve independent sums hide the latency of SMMLA; the barrier on each keeps the compiler from dropping or merging them.
constexpr int kChains = 12;

uint64_t run(uint64_t n_rounds) {
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
    int32x4_t sum[kChains];
    EI_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = vdupq_n_s32(0);
    for (uint64_t round = 0; round < n_rounds; ++round) {
        EI_UNROLL
        for (int i = 0; i < kChains; ++i) {
            sum[i] = vmmlaq_s32(sum[i], a, b);
            EI_KEEP(sum[i]);
        }
    }
    return n_rounds * kChains * 2 * 32;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_neon_i8mm;
const Kernel ei_kernel_probe_int8_neon_i8mm(EI_ISA_NEON_I8MM, run);

}  // namespace ei
