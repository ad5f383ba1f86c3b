#include <algorithm>
#include <functional>

#include "core/exponential.h"
#include "top_k/collect.h"

namespace ei {

void keep_best(uint64_t *found, int64_t n, int64_t k) { std::nth_element(found, found + (k - 1), found + n, std::greater<uint64_t>()); }

namespace {

// exp((logit - best) / temperature) over their sum, which is taken from the best down in double precision.
void softmax(const uint64_t *best_first, int64_t n, float temperature, float *probabilities) {
    const float best = word_logit(best_first[0]);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        probabilities[i] = exponential((word_logit(best_first[i]) - best) / temperature);
        sum += static_cast<double>(probabilities[i]);
    }
    for (int64_t i = 0; i < n; ++i) probabilities[i] = static_cast<float>(static_cast<double>(probabilities[i]) / sum);
}

}  // namespace
}  // namespace ei

extern "C" {

size_t ei_top_k_scratch_bytes(int64_t n, int64_t k) { return static_cast<size_t>(ei::top_k_capacity(n, k)) * sizeof(uint64_t); }

int64_t ei_top_k(int32_t isa, const float *logits, int64_t n, int64_t k, float temperature, int32_t *ids, float *probabilities,
                 void *scratch) {
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::top_k, 0, isa);
    if (kernel == nullptr) return EI_UNSUPPORTED;
    uint64_t *const found = static_cast<uint64_t *>(scratch);
    int64_t n_found = kernel->top_k({logits, n, k, found});
    if (n_found < 0) return EI_NOT_FINITE;
    if (n_found > k) {
        ei::keep_best(found, n_found, k);
        n_found = k;
    }
    if (n_found == 0) return 0;
    std::sort(found, found + n_found, std::greater<uint64_t>());
    if (ei::word_logit(found[0]) > 0x1.fffffep127f) return EI_NOT_FINITE;
    for (int64_t i = 0; i < n_found; ++i) ids[i] = ei::word_id(found[i]);
    if (probabilities != nullptr) ei::softmax(found, n_found, temperature, probabilities);
    return n_found;
}

}  // extern "C"
