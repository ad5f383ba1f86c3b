// What the kernels of top_k share: a list of candidates that is cut to the k best whenever it is full, which raises the bound that the next
// must exceed. After the first few hundred logits hardly any does, so that the work is one comparison each.
//
// A candidate is one word: the logit's bits in the order of the floats above the id's complement, so that the greater word is the better
// candidate, and of equal logits the lower id.
#ifndef EI_TOP_K_COLLECT_H
#define EI_TOP_K_COLLECT_H

#include "core/compiler.h"
#include "core/half.h"
#include "core/kernel.h"

namespace ei {

static inline int64_t top_k_capacity(int64_t n, int64_t k) {
    const int64_t capacity = k + (k > 256 ? k : 256);
    return capacity < n ? capacity : n;
}

// Leaves the k best of n > k words in the first k places, the k-th in the last. In a file of its own: what the standard library makes
// inline must not be compiled for an instruction set (the linker keeps one copy for all).
void keep_best(uint64_t *found, int64_t n, int64_t k);

EI_INLINE uint64_t candidate_word(float logit, int64_t id) {
    const uint32_t bits = float_bits(logit + 0.0f);  // -0 becomes 0, which it equals
    const uint32_t ordered = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return uint64_t{ordered} << 32 | static_cast<uint32_t>(~id);
}
EI_INLINE float word_logit(uint64_t word) {
    const uint32_t ordered = static_cast<uint32_t>(word >> 32);
    return bits_float(ordered & 0x80000000 ? ordered & 0x7fffffff : ~ordered);
}
EI_INLINE int32_t word_id(uint64_t word) { return static_cast<int32_t>(~static_cast<uint32_t>(word)); }

namespace {

struct Collector {
    uint64_t *found;
    int64_t k, capacity, n_found;
    float bound;
    bool nan;

    explicit EI_FORCE_INLINE Collector(const TopKArgs &args)
        : found(args.found), k(args.k), capacity(top_k_capacity(args.n, args.k)), n_found(0), bound(bits_float(0xff800000)), nan(false) {}

    // One that equals the bound comes after k that are no worse.
    EI_FORCE_INLINE void offer(float logit, int64_t id) {
        if (!(logit > bound)) {
            nan |= logit != logit;
            return;
        }
        found[n_found++] = candidate_word(logit, id);
        if (n_found == capacity && capacity > k) {
            keep_best(found, n_found, k);
            n_found = k;
            bound = word_logit(found[k - 1]);
        }
    }
    EI_FORCE_INLINE int64_t result() const { return nan ? -1 : n_found; }
};

}  // namespace

}  // namespace ei
#endif
