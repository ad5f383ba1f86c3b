// What products with our weights are fed, for whoever calibrates: squares of activations added up, and the activations themselves.
#ifndef EI_PLUGIN_COLLECT_H
#define EI_PLUGIN_COLLECT_H

#include <atomic>

#include "edgeinfer_kernels.h"
#include "plugin/library.h"

namespace ei {

// Null but while someone collects. Threads that compute read it at each product; nothing else is paid when it is null.
extern std::atomic<const ei_collection *> g_collection;

inline const ei_collection *collection() { return g_collection.load(std::memory_order_acquire); }

// Of each (token, choice) of a product of experts: its expert, and its column of activations.
struct ExpertColumn {
    int32_t expert;
    const float *x;
};

// The entry for a weight of this shape, or null.
const ei_collected *find_collected(const ei_collection &collection, const ggml::Tensor *weight);

// Thread ith of nth adds its share of the columns; `column(i)` is the i-th of n activations with its expert. Thread 0 counts and copies.
template <class Column>
void collect(const ei_collected &entry, int64_t n, Column column, int ith, int nth) {
    const int64_t first = entry.n_cols * ith / nth, last = entry.n_cols * (ith + 1) / nth;
    for (int64_t i = 0; i < n; ++i) {
        const ExpertColumn from = column(i);
        if (from.expert < 0 || from.expert >= entry.n_experts) continue;
        double *const sums = entry.sums + static_cast<int64_t>(from.expert) * entry.n_cols;
        for (int64_t c = first; c < last; ++c) sums[c] += static_cast<double>(from.x[c]) * static_cast<double>(from.x[c]);
        if (ith != 0) continue;
        ++entry.counts[from.expert];
        if (entry.rows == nullptr || *entry.n_rows >= entry.most_rows) continue;
        float *const row = entry.rows + *entry.n_rows * entry.n_cols;
        for (int64_t c = 0; c < entry.n_cols; ++c) row[c] = from.x[c];
        ++*entry.n_rows;
    }
}

}  // namespace ei
#endif
