// MUL_MAT_ID with packed weights: each token's column goes to the experts that were chosen for it.
#include <algorithm>
#include <cstring>

#include "core/isa.h"
#include "matmul/terms.h"
#include "plugin/collect.h"
#include "plugin/operations.h"

namespace ei {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A slot is one (token, choice). Slots are sorted by expert, in groups of up to 8 that share an expert, or of 4 where x has two
// terms.
struct Plan {
    const ggml::Tensor *op, *weight, *x, *ids;
    const Format *format;
    int64_t n_cols, n_rows, n_experts, n_used, n_slots, n_blocks, n_x_blocks, n_panels, most_groups;
    size_t block_bytes, group_bytes, panel_bytes;
    int n_terms;
    int64_t group_slots;

    Plan(const ggml::Tensor *op_, int n_terms_)
        : op(op_), weight(op_->src[0]), x(op_->src[1]), ids(op_->src[2]), format(find_format(weight->type)), n_terms(n_terms_),
          group_slots(columns_in_group(n_terms_)) {
        n_cols = weight->ne[0], n_rows = weight->ne[1], n_experts = weight->ne[2];
        n_used = ids->ne[0], n_slots = n_used * ids->ne[1];
        n_blocks = n_cols / format->block_size, n_panels = divide_up(n_rows, kPanelRows);
        most_groups = n_slots / group_slots + std::min(n_slots, n_experts);
        n_x_blocks = n_activation_blocks(*format, n_cols), block_bytes = activation_block_bytes(format->activation);
        group_bytes = activation_group_bytes(*format, n_cols), panel_bytes = ei::panel_bytes(*format, n_cols);
    }

    int32_t expert(int64_t slot) const {
        const char *row = static_cast<const char *>(ids->data) + static_cast<size_t>(slot / n_used) * ids->nb[1];
        int32_t id;
        std::memcpy(&id, row + static_cast<size_t>(slot % n_used) * ids->nb[0], sizeof id);
        return id;
    }
    // x has one column a token, or one a slot.
    const float *column(int64_t slot) const {
        const int64_t choice = slot % n_used % x->ne[1];
        return reinterpret_cast<const float *>(static_cast<const char *>(x->data) + static_cast<size_t>(choice) * x->nb[1] + static_cast<size_t>(slot / n_used) * x->nb[2]);
    }
    float *out(int64_t slot) const {
        return reinterpret_cast<float *>(static_cast<char *>(op->data) + static_cast<size_t>(slot % n_used) * op->nb[1] + static_cast<size_t>(slot / n_used) * op->nb[2]);
    }
    // One a thread: slots in the order of their experts, and where each expert's slots and groups begin.
    size_t table_bytes() const { return round_up(static_cast<size_t>(n_slots + 2 * (n_experts + 1)) * sizeof(int32_t), 64); }
};

struct Table {
    int32_t *slots, *first_slot, *first_group;
};

Table sort_slots(const Plan &p, char *memory) {
    int32_t *const words = reinterpret_cast<int32_t *>(memory);
    const Table t{words, words + p.n_slots, words + p.n_slots + p.n_experts + 1};
    std::fill(t.first_slot, t.first_slot + p.n_experts + 1, 0);
    for (int64_t s = 0; s < p.n_slots; ++s) ++t.first_slot[p.expert(s) + 1];
    t.first_group[0] = 0;
    for (int64_t e = 0; e < p.n_experts; ++e) {
        t.first_group[e + 1] = t.first_group[e] + static_cast<int32_t>(divide_up(t.first_slot[e + 1], p.group_slots));
        t.first_slot[e + 1] += t.first_slot[e];
    }
    // Filling moves each beginning to its end, which is the next one's beginning; then they move back.
    for (int64_t s = 0; s < p.n_slots; ++s) t.slots[t.first_slot[p.expert(s)]++] = static_cast<int32_t>(s);
    for (int64_t e = p.n_experts; e > 0; --e) t.first_slot[e] = t.first_slot[e - 1];
    t.first_slot[0] = 0;
    return t;
}

struct Group {
    const int32_t *slots;
    int n;
};

Group group_of(const Plan &p, const Table &t, int64_t expert, int64_t group) {
    const int64_t first = t.first_slot[expert] + (group - t.first_group[expert]) * p.group_slots;
    return {t.slots + first, static_cast<int>(std::min(p.group_slots, t.first_slot[expert + 1] - first))};
}

void quantize_groups(const Plan &p, const Table &t, char *activations, int64_t ith, int64_t nth) {
    const Kernel *kernel = choose_kernel(Op::quantize, quantizer(p.format->activation), ei_best_isa());
    for (int64_t e = 0; e < p.n_experts; ++e) {
        for (int64_t g = t.first_group[e]; g < t.first_group[e + 1]; ++g) {
            const Group group = group_of(p, t, e, g);
            for (int64_t b = 0; b < p.n_x_blocks; ++b) {
                if ((g * p.n_x_blocks + b) % nth != ith) continue;
                const float *columns[kGroupColumns];
                for (int c = 0; c < group.n; ++c) columns[c] = p.column(group.slots[c]) + b * activation_block_size(*p.format);
                quantize_terms(*kernel,
                               {p.format->activation, p.format->zero_point, columns, group.n,
                                activations + static_cast<size_t>(g) * p.group_bytes + static_cast<size_t>(b) * p.block_bytes,
                                activation_block_length(*p.format, p.n_cols, b)},
                               p.n_terms);
            }
        }
    }
}

void tell(const ei_collection &told, const Plan &p, int ith, int nth) {
    const ei_collected *entry = find_collected(told, p.weight);
    if (entry != nullptr) collect(*entry, p.n_slots, [&](int64_t slot) { return ExpertColumn{p.expert(slot), p.column(slot)}; }, ith, nth);
}

}  // namespace

bool can_multiply_experts(const ggml::Tensor *op) {
    if (op->op != ggml::kMulMatId) return false;
    const ggml::Tensor *x = op->src[1], *ids = op->src[2];
    return x->type == ggml::kF32 && x->nb[0] == sizeof(float) && x->ne[3] == 1 && op->type == ggml::kF32 && op->nb[0] == sizeof(float) &&
           ids->type == ggml::kI32 && ids->ne[2] == 1 && ids->ne[3] == 1;
}

size_t multiply_experts_work_bytes(const ggml::Tensor *op, int n_terms, int n_threads) {
    const Plan p(op, n_terms);
    return static_cast<size_t>(n_threads) * p.table_bytes() + static_cast<size_t>(p.most_groups) * p.group_bytes + 64;
}

void multiply_experts(const ggml::ComputeParams &params, const ggml::Tensor *op, int n_terms) {
    const Plan p(op, n_terms);
    const int64_t ith = params.ith, nth = params.nth;
    if (const ei_collection *told = collection()) tell(*told, p, params.ith, params.nth);
    char *const memory = reinterpret_cast<char *>(round_up(reinterpret_cast<size_t>(params.wdata), 64));
    char *const activations = memory + static_cast<size_t>(nth) * p.table_bytes();
    const Table t = sort_slots(p, memory + static_cast<size_t>(ith) * p.table_bytes());
    quantize_groups(p, t, activations, ith, nth);
    if (nth > 1) g_ggml.ggml_barrier(params.threadpool);
    const Kernel *kernel = choose_kernel(Op::matmul, p.format->id, ei_best_isa());
    // Panels of all used experts in one row, dealt out in turn.
    int64_t turn = 0;
    for (int64_t e = 0; e < p.n_experts; ++e) {
        if (t.first_group[e] == t.first_group[e + 1]) continue;
        const uint8_t *const matrix = static_cast<const uint8_t *>(p.weight->data) + static_cast<size_t>(e * p.n_panels) * p.panel_bytes;
        for (int64_t panel = 0; panel < p.n_panels; ++panel) {
            if (turn++ % nth != ith) continue;
            for (int64_t g = t.first_group[e]; g < t.first_group[e + 1]; ++g) {
                const Group group = group_of(p, t, e, g);
                float *out[kGroupColumns];
                for (int c = 0; c < group.n; ++c) out[c] = p.out(group.slots[c]) + panel * kPanelRows;
                multiply_terms(*kernel,
                               {matrix + static_cast<size_t>(panel) * p.panel_bytes,
                                reinterpret_cast<const uint8_t *>(activations) + static_cast<size_t>(g) * p.group_bytes, p.n_blocks, out, group.n,
                                static_cast<int>(std::min<int64_t>(kPanelRows, p.n_rows - panel * kPanelRows))},
                               p.n_terms);
            }
        }
    }
    if (ith == 0) g_counters.multiplied.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace ei
