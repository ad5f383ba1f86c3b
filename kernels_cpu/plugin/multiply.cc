// MUL_MAT with a packed weight.
#include <algorithm>
#include <thread>

#include "matmul/pack.h"
#include "matmul/product.h"
#include "plugin/collect.h"
#include "plugin/operations.h"

namespace ei {

Counters g_counters{};

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
T *aligned(void *at) {
    return reinterpret_cast<T *>(round_up(reinterpret_cast<size_t>(at), 64));
}

int64_t n_matrices(const ggml::Tensor *t) { return t->ne[2]; }

Columns columns_of(const ggml::Tensor *t) {
    return {static_cast<char *>(t->data), t->ne[1], t->ne[2], t->nb[1], t->nb[2], t->nb[3]};
}

Product product_of(const ggml::Tensor *op, int n_terms) {
    const ggml::Tensor *weight = op->src[0], *x = op->src[1];
    return Product(weight->type, weight->ne[0], weight->ne[1], x->ne[1] * x->ne[2] * x->ne[3], n_terms);
}

void tell(const ei_collection &told, const ggml::Tensor *weight, const Columns &x, int64_t n_columns, int ith, int nth) {
    const ei_collected *entry = find_collected(told, weight);
    if (entry != nullptr) collect(*entry, n_columns, [&](int64_t i) { return ExpertColumn{0, x[i]}; }, ith, nth);
}

// A small product is shared out evenly beforehand and each thread quantizes x for itself: cheaper than meeting the others.
bool each_for_itself(const Product &p) { return p.small_x() && p.packed_bytes() <= (2 << 20); }

}  // namespace

bool can_pack(const ggml::Tensor *weight) {
    return ei_has_matmul(weight->type, weight->ne[0]) && weight->ne[3] == 1 && weight->view_src == nullptr;
}

size_t packed_bytes(const ggml::Tensor *weight) {
    return static_cast<size_t>(n_matrices(weight)) * ei_packed_bytes(weight->type, weight->ne[1], weight->ne[0]);
}

void pack_weight(const ggml::Tensor *weight, const void *data) {
    const Format &format = *find_format(weight->type);
    const int64_t n_panels = divide_up(weight->ne[1], kPanelRows), total = n_panels * n_matrices(weight);
    const size_t row_bytes = static_cast<size_t>(weight->ne[0] / format.block_size) * format.block_bytes;
    const size_t matrix_bytes = static_cast<size_t>(weight->ne[1]) * row_bytes, packed = ei_packed_bytes(format.id, weight->ne[1], weight->ne[0]);
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < total;) {
            const size_t matrix = static_cast<size_t>(i / n_panels);
            pack_panels(format, static_cast<const char *>(data) + matrix * matrix_bytes, row_bytes, weight->ne[1], weight->ne[0],
                        static_cast<char *>(weight->data) + matrix * packed, i % n_panels, 1);
        }
    };
    // Threads only where there is a millisecond's work or so.
    const unsigned wanted = total * static_cast<int64_t>(16 * row_bytes) < (1 << 20) ? 1 : std::min(16u, std::thread::hardware_concurrency());
    std::thread helpers[15];
    for (unsigned i = 0; i + 1 < wanted; ++i) helpers[i] = std::thread(work);
    work();
    for (unsigned i = 0; i + 1 < wanted; ++i) helpers[i].join();
    g_counters.packed.fetch_add(1, std::memory_order_relaxed);
}

bool can_multiply(const ggml::Tensor *op) {
    const ggml::Tensor *weight = op->src[0], *x = op->src[1];
    return op->op == ggml::kMulMat && weight->ne[2] == 1 && x->type == ggml::kF32 && x->nb[0] == sizeof(float) && op->type == ggml::kF32 &&
           op->nb[0] == sizeof(float);
}

size_t multiply_work_bytes(const ggml::Tensor *op, int n_terms, int n_threads) {
    const Product p = product_of(op, n_terms);
    return (each_for_itself(p) ? p.activation_bytes() * static_cast<size_t>(n_threads) : p.activation_bytes()) + 64;
}

void multiply(const ggml::ComputeParams &params, const ggml::Tensor *op, int n_terms) {
    const Product p = product_of(op, n_terms);
    const Columns x = columns_of(op->src[1]), out = columns_of(op);
    const void *const packed = op->src[0]->data;
    char *activations = aligned<char>(params.wdata);
    const int64_t ith = params.ith, nth = params.nth;
    if (const ei_collection *told = collection()) tell(*told, op->src[0], x, p.n_columns, params.ith, params.nth);
    if (ith == 0) g_counters.multiplied.fetch_add(1, std::memory_order_relaxed);
    if (each_for_itself(p) || nth == 1) {
        activations += static_cast<size_t>(ith) * p.activation_bytes();
        p.quantize_items(x, activations, 0, p.n_items());
        p.multiply(packed, activations, out, p.n_panels * ith / nth, p.n_panels * (ith + 1) / nth);
        return;
    }
    p.quantize_items(x, activations, p.n_items() * ith / nth, p.n_items() * (ith + 1) / nth);
    if (ith == 0) g_ggml.ggml_threadpool_chunk_set(params.threadpool, static_cast<int>(nth));
    g_ggml.ggml_barrier(params.threadpool);
    const int64_t chunk = p.chunk_panels(params.nth), n_chunks = divide_up(p.n_panels, chunk);
    for (int64_t i = ith; i < n_chunks; i = g_ggml.ggml_threadpool_chunk_add(params.threadpool, 1)) {
        p.multiply(packed, activations, out, i * chunk, std::min((i + 1) * chunk, p.n_panels));
    }
}

}  // namespace ei
