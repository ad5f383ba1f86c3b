// FLASH_ATTN_EXT over a half-precision cache.
#include <algorithm>
#include <cstring>

#include "core/isa.h"
#include "core/kernel.h"
#include "plugin/operations.h"

namespace ei {
namespace {

// Rows (query heads x tokens) that one unit computes, at most: keys and values are converted once for them, and their scores should stay
// near the core.
constexpr int kMostRows = 64;
constexpr size_t kMostScoreBytes = 4 << 20;

struct Split {
    int tokens, heads;  // of one unit
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
        return {static_cast<int>(tokens), static_cast<int>(heads), token_blocks, head_blocks, n_streams * n_kv_heads * token_blocks * head_blocks};
    }

    // The split whose busiest thread has least to do; reading keys and values costs a unit as much as kReading rows. Tokens are shared out
    // evenly, in the fewest blocks that keep to the limit or in a few more.
    Split best_split(int n_threads) const {
        constexpr int64_t kReading = 8;
        const int64_t score_bytes = static_cast<int64_t>(kMostScoreBytes) / (4 * (n_kv + 64));
        const int64_t most_rows = std::max<int64_t>(1, std::min<int64_t>(kMostRows, score_bytes));
        Split best{};
        int64_t least = INT64_MAX;
        for (int64_t heads = n_group; heads >= 1; heads = heads > 1 ? (heads + 1) / 2 : 0) {
            const int64_t most_tokens = std::max<int64_t>(1, most_rows / heads), fewest = (n_tokens + most_tokens - 1) / most_tokens;
            for (int64_t blocks = fewest; blocks <= std::min(n_tokens, 4 * fewest); blocks += std::max<int64_t>(1, fewest / 2)) {
                const Split s = split(blocks, heads);
                const int64_t rounds = (s.n_units + n_threads - 1) / n_threads, cost = rounds * (kReading + s.tokens * s.heads);
                if (cost < least) least = cost, best = s;
            }
        }
        return best;
    }
};

}  // namespace

bool can_attend(const ggml::Tensor *op) {
    if (op->op != ggml::kFlashAttention) return false;
    const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float parameters[3];  // scale, ALiBi's slope, soft cap
    std::memcpy(parameters, op->op_params, sizeof parameters);
    if (mask == nullptr || op->src[4] != nullptr || parameters[1] != 0.0f || parameters[2] != 0.0f) return false;
    if (q->type != ggml::kF32 || k->type != ggml::kF16 || v->type != ggml::kF16 || mask->type != ggml::kF16) return false;
    if (q->nb[0] != 4 || k->nb[0] != 2 || v->nb[0] != 2 || mask->nb[0] != 2 || op->nb[0] != 4) return false;
    if (k->ne[0] != v->ne[0] || k->ne[0] % 16 != 0 || k->ne[0] > 512 || k->ne[1] > (1 << 18) || k->ne[1] != v->ne[1]) return false;
    if (k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0 || k->ne[2] != v->ne[2] || mask->ne[2] != 1 || mask->ne[0] < k->ne[1]) return false;
    return k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] && (mask->ne[3] == q->ne[3] || mask->ne[3] == 1) && mask->ne[1] >= q->ne[1];
}

size_t attend_work_bytes(const ggml::Tensor *op, int n_threads) {
    const Shape shape(op);
    size_t most = 0;
    // ggml may run with fewer threads than it planned for, and then the split is another.
    for (int n = 1; n <= n_threads; ++n) {
        const Split s = shape.best_split(n);
        most = std::max(most, static_cast<size_t>(n) * round_up(ei_attention_scratch_bytes(shape.n_kv, shape.head_dim, s.tokens, s.heads), 64));
    }
    return most + 64;
}

void attend(const ggml::ComputeParams &params, const ggml::Tensor *op) {
    const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    const Shape shape(op);
    const Split split = shape.best_split(params.nth);
    const size_t scratch_bytes = round_up(ei_attention_scratch_bytes(shape.n_kv, shape.head_dim, split.tokens, split.heads), 64);
    char *const scratch = reinterpret_cast<char *>(round_up(reinterpret_cast<size_t>(params.wdata), 64)) + static_cast<size_t>(params.ith) * scratch_bytes;
    const Kernel *kernel = choose_kernel(Op::attention, 0, ei_best_isa());
    AttentionArgs args{};
    args.q_token_stride = q->nb[1], args.q_head_stride = q->nb[2];
    args.k_cell_stride = k->nb[1], args.k_head_stride = k->nb[2], args.v_cell_stride = v->nb[1], args.v_head_stride = v->nb[2];
    args.mask_token_stride = mask->nb[1], args.out_head_stride = op->nb[1], args.out_token_stride = op->nb[2];
    args.n_kv = shape.n_kv, args.head_dim = shape.head_dim, args.n_group = shape.n_group;
    std::memcpy(&args.scale, op->op_params, sizeof args.scale);
    for (int64_t i = params.ith; i < split.n_units; i += params.nth) {
        const int64_t head_block = i % split.head_blocks, kv_head = i / split.head_blocks % shape.n_kv_heads;
        const int64_t rest = i / split.head_blocks / shape.n_kv_heads, token_block = rest % split.token_blocks;
        const size_t stream = static_cast<size_t>(rest / split.token_blocks);
        args.q = static_cast<const char *>(q->data) + stream * q->nb[3];
        args.k = static_cast<const char *>(k->data) + stream * k->nb[3];
        args.v = static_cast<const char *>(v->data) + stream * v->nb[3];
        args.mask = static_cast<const char *>(mask->data) + (mask->ne[3] == 1 ? 0 : stream * mask->nb[3]);
        args.out = static_cast<char *>(op->data) + stream * op->nb[3];
        const int first_token = static_cast<int>(token_block) * split.tokens, first_head = static_cast<int>(head_block) * split.heads;
        kernel->attention(args, {static_cast<int>(kv_head), first_token, static_cast<int>(std::min<int64_t>(split.tokens, shape.n_tokens - first_token)),
                                 first_head, std::min(split.heads, shape.n_group - first_head), scratch});
    }
    if (params.ith == 0) g_counters.attended.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace ei
