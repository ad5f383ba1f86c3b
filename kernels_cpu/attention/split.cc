#include "attention/split.h"

#include <algorithm>

namespace ei {
namespace {

// Rows (query heads x tokens) that one unit computes, at most: keys and values are converted once for them, and their scores should stay
// near the core.
constexpr int kMostRows = 64;
constexpr size_t kMostScoreBytes = 4 << 20;
constexpr int kMostParts = 16;  // of the cells of a unit

}  // namespace

Split AttentionShape::split(int64_t token_blocks, int64_t heads) const {
    const int64_t tokens = (n_tokens + token_blocks - 1) / token_blocks, head_blocks = (n_group + heads - 1) / heads;
    token_blocks = (n_tokens + tokens - 1) / tokens;
    const int64_t n_units = n_streams * n_kv_heads * token_blocks * head_blocks;
    return {static_cast<int>(tokens), static_cast<int>(heads), 1, token_blocks, head_blocks, n_units};
}

// Of the busiest thread, in rows times cells; reading keys and values costs a unit as much as kReading rows, and waiting for each other as
// much as kWaiting.
int64_t AttentionShape::cost(const Split &s, int n_threads) const {
    constexpr int64_t kReading = 8, kWaiting = 4096;
    const int64_t rounds = (s.n_units * s.parts + n_threads - 1) / n_threads;
    return rounds * (kReading + s.tokens * s.heads) * ((n_kv + s.parts - 1) / s.parts) + (s.parts > 1 ? kWaiting : 0);
}

// Tokens are shared out evenly, in the fewest blocks that keep to the limit or in a few more; the cells only where that leaves threads
// without work.
Split AttentionShape::best_split(int n_threads) const {
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

Split AttentionShape::finest_split() const { return split(n_tokens, 1); }

size_t AttentionShape::scratch_bytes(const Split &s) const {
    return ei_attention_scratch_bytes(n_kv, head_dim, s.tokens, s.heads, s.parts);
}

ei_attention_unit AttentionShape::unit(const Split &s, int64_t index, int64_t *stream) const {
    const int64_t head_block = index % s.head_blocks, kv_head = index / s.head_blocks % n_kv_heads;
    const int64_t rest = index / s.head_blocks / n_kv_heads, token_block = rest % s.token_blocks;
    *stream = rest / s.token_blocks;
    const int first_token = static_cast<int>(token_block) * s.tokens, first_head = static_cast<int>(head_block) * s.heads;
    const int n = static_cast<int>(std::min<int64_t>(s.tokens, n_tokens - first_token));
    return {static_cast<int32_t>(kv_head), first_token, n, first_head, std::min(s.heads, n_group - first_head), nullptr, 0, s.parts, 0};
}

}  // namespace ei
