#include "plugin/collect.h"

#include <cstring>

namespace ei {

std::atomic<const ei_collection *> g_collection{nullptr};

const ei_collected *find_collected(const ei_collection &collection, const ggml::Tensor *weight) {
    int64_t low = 0, high = collection.n_entries;  // entries are sorted by name
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        const ei_collected &entry = collection.entries[middle];
        const int order = std::strncmp(entry.name, weight->name, sizeof entry.name);
        if (order == 0) return entry.n_cols == weight->ne[0] && entry.n_experts == weight->ne[2] ? &entry : nullptr;
        (order < 0 ? low : high) = order < 0 ? middle + 1 : middle;
    }
    return nullptr;
}

}  // namespace ei

extern "C" void ei_ggml_collect(const ei_collection *collection) { ei::g_collection.store(collection, std::memory_order_release); }
