// FLASH_ATTN_EXT over a cache of half precision or of q8_0.
#include <algorithm>
#include <cstring>

#include "core/formats.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "plugin/operations.h"

namespace ei {
namespace {

// Rows (query heads x tokens) that one unit computes, at most: keys and values are converted once for them, and their scores should stay
// near the core.
constexpr int kMostRows = 64;
constexpr size_t kMostScoreBytes = 4 << 20;
constexpr int kMostParts = 16;  // of the cells of a unit

struct Split {
    int tokens, heads, parts;  // of one unit
    int64_t token_blocks, head_blocks, n_units;
};

struct Shape {
    int64_t head_dim, n_kv, n_tokens, n_kv_heads, n_streams;
    int n_group;

    explicit Shape(const ggml::Tensor *op) {
        const ggml::Tensor *q = op->src[0], *k = op->src[1];
        head_dim = k->ne[0], n_kv = k->ne[1], n_tokens = q->ne[1], n_kv_heads = k->ne[2], n_streams = q->ne[3];
        n_group = static_cast<int>(q->ne[2] / k->ne[2]);
    }

    Split split(int64_t token_blocks, int64_t heads) const {
        const int64_t tokens = (n_tokens + token_blocks - 1) / token_blocks, head_blocks = (n_group + heads - 1) / heads;
        token_blocks = (n_tokens + tokens - 1) / tokens;
        const int64_t n_units = n_streams * n_kv_heads * token_blocks * head_blocks;
        return {static_cast<int>(tokens), static_cast<int>(heads), 1, token_blocks, head_blocks, n_units};
    }

    // Of the busiest thread, in rows times cells; reading keys and values costs a unit as much as kReading rows, and waiting for each
    // other as much as kWaiting.
    int64_t cost(const Split &s, int n_threads) const {
        constexpr int64_t kReading = 8, kWaiting = 4096;
        const int64_t rounds = (s.n_units * s.parts + n_threads - 1) / n_threads;
        return rounds * (kReading + s.tokens * s.heads) * ((n_kv + s.parts - 1) / s.parts) + (s.parts > 1 ? kWaiting : 0);
    }

    // The split whose busiest thread has least to do. Tokens are shared out evenly, in the fewest blocks that keep to the limit or in a few
    // more; the cells only where that leaves threads without work.
    Split best_split(int n_threads) const {
        const int64_t score_bytes = static_cast<int64_t>(kMostScoreBytes) / (4 * (n_kv + 64));
        const int64_t most_rows = std::max<int64_t>(1, std::min<int64_t>(kMostRows, score_bytes));
        Split best{};
        int64_t least = INT64_MAX;
        for (int64_t heads = n_group; heads >= 1; heads = heads > 1 ? (heads + 1) / 2 : 0) {
            const int64_t most_tokens = std::max<int64_t>(1, most_rows / heads), fewest = (n_tokens + most_tokens - 1) / most_tokens;
            for (int64_t blocks = fewest; blocks <= std::min(n_tokens, 4 * fewest); blocks += std::max<int64_t>(1, fewest / 2)) {
                Split s = split(blocks, heads);
                const int most_parts = s.n_units < 2 * n_threads ? std::min(n_threads, kMostParts) : 1;
                for (; s.parts <= most_parts; s.parts *= 2) {
                    if (cost(s, n_threads) < least) least = cost(s, n_threads), best = s;
                }
            }
        }
        return best;
    }

    // One row a unit: the least scratch that a thread can do with.
    Split finest_split() const { return split(n_tokens, 1); }

    // Parts of a unit are together in memory, and each unit's is its own until the last step; else each thread's.
    size_t scratch_bytes(const Split &s) const { return ei_attention_scratch_bytes(n_kv, head_dim, s.tokens, s.heads, s.parts); }
    size_t work_bytes(const Split &s, int n_threads) const {
        return scratch_bytes(s) * static_cast<size_t>(s.parts > 1 ? s.n_units : n_threads);
    }
};

// The operands, for units of any stream.
class Operands {
  public:
    explicit Operands(const ggml::Tensor *op) : op_(op), shape_(op) {
        const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
        args_.q_token_stride = q->nb[1], args_.q_head_stride = q->nb[2];
        args_.k_cell_stride = k->nb[1], args_.k_head_stride = k->nb[2], args_.v_cell_stride = v->nb[1], args_.v_head_stride = v->nb[2];
        args_.mask_token_stride = mask->nb[1], args_.out_head_stride = op->nb[1], args_.out_token_stride = op->nb[2];
        args_.n_kv = shape_.n_kv, args_.head_dim = shape_.head_dim, args_.n_group = shape_.n_group;
        std::memcpy(&args_.scale, op->op_params, sizeof args_.scale);
    }

    void run(const Kernel &kernel, const Split &split, int64_t unit, int part, int step, void *scratch) {
        const ggml::Tensor *q = op_->src[0], *k = op_->src[1], *v = op_->src[2], *mask = op_->src[3];
        const int64_t head_block = unit % split.head_blocks, kv_head = unit / split.head_blocks % shape_.n_kv_heads;
        const int64_t rest = unit / split.head_blocks / shape_.n_kv_heads, token_block = rest % split.token_blocks;
        const size_t stream = static_cast<size_t>(rest / split.token_blocks);
        args_.q = static_cast<const char *>(q->data) + stream * q->nb[3];
        args_.k = static_cast<const char *>(k->data) + stream * k->nb[3];
        args_.v = static_cast<const char *>(v->data) + stream * v->nb[3];
        args_.mask = static_cast<const char *>(mask->data) + (mask->ne[3] == 1 ? 0 : stream * mask->nb[3]);
        args_.out = static_cast<char *>(op_->data) + stream * op_->nb[3];
        const int first_token = static_cast<int>(token_block) * split.tokens, first_head = static_cast<int>(head_block) * split.heads;
        const int n_tokens = static_cast<int>(std::min<int64_t>(split.tokens, shape_.n_tokens - first_token));
        const int n_heads = std::min(split.heads, shape_.n_group - first_head);
        kernel.attention(args_, {static_cast<int>(kv_head), first_token, n_tokens, first_head, n_heads, scratch, part, split.parts, step});
    }

  private:
    const ggml::Tensor *op_;
    Shape shape_;
    AttentionArgs args_{};
};

}  // namespace

bool can_attend(const ggml::Tensor *op) {
    if (op->op != ggml::kFlashAttention) return false;
    const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float parameters[3];  // scale, ALiBi's slope, soft cap
    std::memcpy(parameters, op->op_params, sizeof parameters);
    if (mask == nullptr || op->src[4] != nullptr || parameters[1] != 0.0f || parameters[2] != 0.0f) return false;
    if (q->type != ggml::kF32 || mask->type != ggml::kF16 || q->nb[0] != 4 || mask->nb[0] != 2 || op->nb[0] != 4) return false;
    // Both of one kind; ggml keeps the mixtures.
    const bool half = k->type == ggml::kF16, blocks = k->type == ggml::kQ8_0;
    const size_t element = half ? sizeof(uint16_t) : sizeof(BlockQ8_0);
    if (!(half || blocks) || k->type != v->type || k->nb[0] != element || v->nb[0] != element) return false;
    if (k->ne[0] != v->ne[0] || k->ne[0] % (half ? 16 : 32) != 0 || k->ne[0] > 512) return false;
    if (k->ne[1] != v->ne[1] || k->ne[1] > (1 << 18)) return false;
    if (k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0 || k->ne[2] != v->ne[2] || mask->ne[2] != 1 || mask->ne[0] < k->ne[1]) return false;
    return k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] && (mask->ne[3] == q->ne[3] || mask->ne[3] == 1) && mask->ne[1] >= q->ne[1];
}

size_t attend_work_bytes(const ggml::Tensor *op, int n_threads) {
    const Shape shape(op);
    return std::max(shape.work_bytes(shape.best_split(n_threads), n_threads), shape.work_bytes(shape.finest_split(), n_threads)) + 64;
}

void attend(const ggml::ComputeParams &params, const ggml::Tensor *op) {
    const Shape shape(op);
    Split split = shape.best_split(params.nth);
    // ggml may run with fewer threads than it planned for; what is then best may need more memory than there is.
    if (shape.work_bytes(split, params.nth) + 64 > params.wsize) split = shape.finest_split();
    const size_t scratch_bytes = shape.scratch_bytes(split);
    char *const scratch = reinterpret_cast<char *>(round_up(reinterpret_cast<size_t>(params.wdata), 64));
    const Kernel &kernel = *choose_kernel(Op::attention, op->src[1]->type, ei_best_isa());
    Operands operands(op);
    if (split.parts == 1) {
        char *const own = scratch + static_cast<size_t>(params.ith) * scratch_bytes;
        for (int64_t i = params.ith; i < split.n_units; i += params.nth) operands.run(kernel, split, i, 0, 0, own);
    } else {
        for (int step = 0; step < EI_ATTENTION_STEPS; ++step) {
            if (step > 0) g_ggml.ggml_barrier(params.threadpool);
            for (int64_t i = params.ith; i < split.n_units * split.parts; i += params.nth) {
                const int64_t unit = i / split.parts;
                char *const own = scratch + static_cast<size_t>(unit) * scratch_bytes;
                operands.run(kernel, split, unit, static_cast<int>(i % split.parts), step, own);
            }
        }
    }
    if (params.ith == 0) g_counters.attended.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace ei
