#include "core/kernel.h"

namespace ei {
namespace {

constexpr int kChains = 8;

uint64_t run(uint64_t n_rounds) {
    // Volatile inputs are read once a round: products that the compiler cannot know, at the price of two loads for eight of them.
    volatile int8_t input[2] = {3, -2};
    volatile int32_t sink;
    int32_t sum[kChains] = {};
    for (uint64_t round = 0; round < n_rounds; ++round) {
        const int32_t a = input[0], b = input[1];
        for (int i = 0; i < kChains; ++i) sum[i] = static_cast<int32_t>(static_cast<uint32_t>(sum[i]) + static_cast<uint32_t>((a + i) * (b ^ (sum[i] & 1))));
    }
    int32_t total = 0;
    for (int i = 0; i < kChains; ++i) total ^= sum[i];
    sink = total;
    (void)sink;
    return n_rounds * kChains * 2;
}

}  // namespace

extern const Kernel ei_kernel_probe_int8_scalar;
const Kernel ei_kernel_probe_int8_scalar(EI_ISA_SCALAR, run);

}  // namespace ei
