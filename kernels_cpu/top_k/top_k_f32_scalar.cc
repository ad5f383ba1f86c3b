#include "top_k/collect.h"

namespace ei {
namespace {

int64_t top_k(const TopKArgs &args) {
    Collector collector(args);
    for (int64_t i = 0; i < args.n; ++i) collector.offer(args.logits[i], i);
    return collector.result();
}

}  // namespace

extern const Kernel ei_kernel_top_k_f32_scalar;
const Kernel ei_kernel_top_k_f32_scalar(EI_ISA_SCALAR, top_k);

}  // namespace ei
