#include "top_k/collect.h"

namespace ei {
namespace {

int64_t top_k(const TopKArgs &args) {
    Collector collector(args);
    int64_t i = 0;
    for (; i + 16 <= args.n; i += 16) {
        int over = 0;  // NaN is over as well
        for (int j = 0; j < 16; ++j) over |= !(args.logits[i + j] <= collector.bound);
        if (over == 0) continue;
        for (int j = 0; j < 16; ++j) collector.offer(args.logits[i + j], i + j);
    }
    for (; i < args.n; ++i) collector.offer(args.logits[i], i);
    return collector.result();
}

}  // namespace

extern const Kernel ei_kernel_top_k_f32_scalar;
const Kernel ei_kernel_top_k_f32_scalar(EI_ISA_SCALAR, top_k);

}  // namespace ei
