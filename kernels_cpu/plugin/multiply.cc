// MUL_MAT with a packed weight.
#include <algorithm>
#include <thread>

#include "core/isa.h"
#include "core/kernel.h"
#include "matmul/pack.h"
#include "plugin/operations.h"

namespace ei {

Counters g_counters{};

namespace {

constexpr int64_t kGroup = kGroupColumns, kFewGroups = 2;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
T *aligned(void *at) {
    return reinterpret_cast<T *>(round_up(reinterpret_cast<size_t>(at), 64));
}

int64_t n_matrices(const ggml::Tensor *t) { return t->ne[2]; }

// A column of x or of the result, counted through its three outer dimensions.
char *column(const ggml::Tensor *t, int64_t index) {
    if (index < t->ne[1]) return static_cast<char *>(t->data) + static_cast<size_t>(index) * t->nb[1];
    const int64_t i1 = index % t->ne[1], i2 = index / t->ne[1] % t->ne[2], i3 = index / t->ne[1] / t->ne[2];
    return static_cast<char *>(t->data) + static_cast<size_t>(i1) * t->nb[1] + static_cast<size_t>(i2) * t->nb[2] + static_cast<size_t>(i3) * t->nb[3];
}

struct Product {
    const Format *format;
    const Kernel *quantize, *matmul;
    int64_t n_cols, n_rows, n_columns, n_blocks, n_x_blocks, n_groups, n_panels;
    size_t block_bytes, group_bytes, panel_bytes;

    explicit Product(const ggml::Tensor *op) {
        const ggml::Tensor *weight = op->src[0], *x = op->src[1];
        format = find_format(weight->type);
        quantize = choose_kernel(Op::quantize, quantizer(format->activation), ei_best_isa());
        matmul = choose_kernel(Op::matmul, format->id, ei_best_isa());
        n_cols = weight->ne[0], n_rows = weight->ne[1], n_columns = x->ne[1] * x->ne[2] * x->ne[3];
        n_blocks = n_cols / format->block_size, n_groups = divide_up(n_columns, kGroup), n_panels = divide_up(n_rows, kPanelRows);
        n_x_blocks = n_activation_blocks(*format, n_cols), block_bytes = activation_block_bytes(format->activation);
        group_bytes = activation_group_bytes(*format, n_cols), panel_bytes = ei::panel_bytes(*format, n_cols);
    }

    // A small product is shared out evenly beforehand and each thread quantizes x for itself: cheaper than meeting the others.
    bool each_for_itself() const { return n_columns * n_cols <= 16384 && static_cast<size_t>(n_panels) * panel_bytes <= (2 << 20); }
    int group_size(int64_t group) const { return static_cast<int>(std::min(kGroup, n_columns - group * kGroup)); }
};

void quantize_items(const Product &p, const ggml::Tensor *x, char *activations, int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
        const int64_t group = item / p.n_x_blocks, block = item % p.n_x_blocks;
        const float *columns[kGroup];
        const int n = p.group_size(group);
        for (int c = 0; c < n; ++c) {
            columns[c] = reinterpret_cast<const float *>(column(x, group * kGroup + c)) + block * activation_block_size(*p.format);
        }
        p.quantize->quantize({p.format->activation, p.format->zero_point, columns, n, activations + static_cast<size_t>(item) * p.block_bytes,
                              activation_block_length(*p.format, p.n_cols, block)});
    }
}

// Where a group's results go.
struct Outputs {
    float *column[kGroup];
    int n;

    Outputs() = default;
    Outputs(const Product &p, const ggml::Tensor *op, int64_t group) : n(p.group_size(group)) {
        for (int c = 0; c < n; ++c) column[c] = reinterpret_cast<float *>(ei::column(op, group * kGroup + c));
    }
};

// One group of columns with panels [first, last).
void multiply_group(const Product &p, const ggml::Tensor *op, const char *activations, int64_t group, const Outputs &outputs, int64_t first,
                    int64_t last) {
    float *out[kGroup];
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t row = panel * kPanelRows;
        for (int c = 0; c < outputs.n; ++c) out[c] = outputs.column[c] + row;
        p.matmul->matmul({static_cast<const uint8_t *>(op->src[0]->data) + static_cast<size_t>(panel) * p.panel_bytes,
                          reinterpret_cast<const uint8_t *>(activations) + static_cast<size_t>(group) * p.group_bytes, p.n_blocks, out, outputs.n,
                          static_cast<int>(std::min<int64_t>(kPanelRows, p.n_rows - row))});
    }
}

// Panels that a thread takes at once. Few columns: a quarter of its share, so that a thread that was held up does not hold up the others.
// Many: as much as stays in the second-level cache while every group of columns passes over it.
int64_t chunk_panels(const Product &p, int n_threads) {
    const int64_t share = divide_up(p.n_panels, 4 * int64_t{n_threads});
    if (p.n_groups <= kFewGroups) return std::min<int64_t>(share, 64);
    return std::max<int64_t>(1, std::min<int64_t>(share, static_cast<int64_t>((256 << 10) / p.panel_bytes)));
}

// With few groups weights come from memory, and a panel is used up before the next; with many the groups take turns on panels that stay in
// the second-level cache.
void multiply_chunk(const Product &p, const ggml::Tensor *op, const char *activations, int64_t first, int64_t last) {
    if (p.n_groups <= kFewGroups) {
        Outputs outputs[kFewGroups];
        for (int64_t group = 0; group < p.n_groups; ++group) outputs[group] = Outputs(p, op, group);
        for (int64_t panel = first; panel < last; ++panel) {
            for (int64_t group = 0; group < p.n_groups; ++group) multiply_group(p, op, activations, group, outputs[group], panel, panel + 1);
        }
        return;
    }
    const int64_t step = chunk_panels(p, 1);
    for (int64_t at = first; at < last; at += step) {
        for (int64_t group = 0; group < p.n_groups; ++group) {
            multiply_group(p, op, activations, group, Outputs(p, op, group), at, std::min(at + step, last));
        }
    }
}

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

size_t multiply_work_bytes(const ggml::Tensor *op, int n_threads) {
    const Product p(op);
    const size_t once = static_cast<size_t>(p.n_groups) * p.group_bytes;
    return (p.each_for_itself() ? once * static_cast<size_t>(n_threads) : once) + 64;
}

void multiply(const ggml::ComputeParams &params, const ggml::Tensor *op) {
    const Product p(op);
    char *activations = aligned<char>(params.wdata);
    const int64_t n_items = p.n_groups * p.n_x_blocks, ith = params.ith, nth = params.nth;
    if (ith == 0) g_counters.multiplied.fetch_add(1, std::memory_order_relaxed);
    if (p.each_for_itself() || nth == 1) {
        activations += static_cast<size_t>(ith) * static_cast<size_t>(p.n_groups) * p.group_bytes;
        quantize_items(p, op->src[1], activations, 0, n_items);
        multiply_chunk(p, op, activations, p.n_panels * ith / nth, p.n_panels * (ith + 1) / nth);
        return;
    }
    quantize_items(p, op->src[1], activations, n_items * ith / nth, n_items * (ith + 1) / nth);
    if (ith == 0) g_ggml.ggml_threadpool_chunk_set(params.threadpool, static_cast<int>(nth));
    g_ggml.ggml_barrier(params.threadpool);
    const int64_t chunk = chunk_panels(p, params.nth), n_chunks = divide_up(p.n_panels, chunk);
    for (int64_t i = ith; i < n_chunks; i = g_ggml.ggml_threadpool_chunk_add(params.threadpool, 1)) {
        multiply_chunk(p, op, activations, i * chunk, std::min((i + 1) * chunk, p.n_panels));
    }
}

}  // namespace ei
