#include "attention/split.h"

#include <algorithm>

namespace ei {
namespace {

// Rows (query heads x tokens) that one unit computes, at most: keys and values are converted once for them, and their scores should stay
// near the core.
constexpr int kMostRows = 64;
constexpr size_t kMostScoreBytes = 4 << 20;
constexpr int kMostParts = 16;  // of the cells of a unit
constexpr int64_t kReading = 8;  // rows that cost a unit as much as reading keys and values

// Whether of the cells that either token sees they share less than half.
bool apart(const uint16_t *a, const uint16_t *b, int64_t n_kv) {
    constexpr uint16_t kHidden = 0xfc00;  // minus infinity
    int32_t common = 0, either = 0;  // as wide as int: the loop becomes vector code
    for (int64_t i = 0; i < n_kv; ++i) {
        const int32_t in_a = a[i] != kHidden, in_b = b[i] != kHidden;
        common += in_a & in_b, either += in_a | in_b;
    }
    return 2 * static_cast<int64_t>(common) < either;
}

}  // namespace

Split AttentionShape::split(int64_t token_blocks, int64_t heads) const {
    const int64_t tokens = (n_tokens + token_blocks - 1) / token_blocks, head_blocks = (n_group + heads - 1) / heads;
    token_blocks = (n_tokens + tokens - 1) / tokens;
    const int64_t n_units = n_streams * n_kv_heads * token_blocks * head_blocks;
    return {static_cast<int>(tokens), static_cast<int>(heads), 1, token_blocks, head_blocks, n_units};
}

// Of the busiest thread, in rows times cells; waiting for each other costs as much as kWaiting.
int64_t AttentionShape::cost(const Split &s, int n_threads) const {
    constexpr int64_t kWaiting = 4096;
    const int64_t rounds = (s.n_units * s.parts + n_threads - 1) / n_threads;
    return rounds * (kReading + s.tokens * s.heads) * ((n_kv + s.parts - 1) / s.parts) + (s.parts > 1 ? kWaiting : 0);
}

// The same in rows, each over its token's cells.
int64_t AttentionShape::cost_apart(const Split &s, int n_threads) const {
    return (s.n_units + n_threads - 1) / n_threads * s.tokens * (kReading + s.heads);
}

int64_t AttentionShape::most_rows() const {
    const int64_t score_bytes = static_cast<int64_t>(kMostScoreBytes) / (4 * (n_kv + 64));
    return std::max<int64_t>(1, std::min<int64_t>(kMostRows, score_bytes));
}

// Tokens are shared out evenly, in the fewest blocks that keep to the limit or in a few more; the cells only where that leaves threads
// without work.
Split AttentionShape::best_split(int n_threads) const {
    Split best{};
    int64_t least = INT64_MAX;
    for (int64_t heads = n_group; heads >= 1; heads = heads > 1 ? (heads + 1) / 2 : 0) {
        const int64_t most_tokens = std::max<int64_t>(1, most_rows() / heads), fewest = (n_tokens + most_tokens - 1) / most_tokens;
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

// Never in larger units than the others are: as much memory as for those is enough.
Split AttentionShape::best_split_apart(int n_threads) const {
    Split best{};
    int64_t least = INT64_MAX;
    for (int64_t heads = n_group; heads >= 1; heads = heads > 1 ? (heads + 1) / 2 : 0) {
        const int64_t most_tokens = std::max<int64_t>(1, most_rows() / n_group), fewest = (n_tokens + most_tokens - 1) / most_tokens;
        for (int64_t blocks = fewest;; blocks = std::min(2 * blocks, n_tokens)) {
            const Split s = split(blocks, heads);
            if (cost_apart(s, n_threads) < least) least = cost_apart(s, n_threads), best = s;
            if (blocks == n_tokens) break;
        }
    }
    return best;
}

// A few sequences among many tokens of one are no reason: what they see is found within a unit.
Split AttentionShape::best_split_for(const char *masks, size_t stride, int n_threads) const {
    const Split together = best_split(n_threads);
    if (together.parts == 1 || n_tokens == 1) return together;
    int64_t n_groups = 1;
    for (int64_t i = 1; i < n_tokens; ++i) {
        const char *const mask = masks + static_cast<size_t>(i) * stride;
        n_groups += apart(reinterpret_cast<const uint16_t *>(mask - stride), reinterpret_cast<const uint16_t *>(mask), n_kv);
    }
    const bool shared_out = n_groups > 1 && n_groups >= std::min<int64_t>(n_threads, (n_tokens + 1) / 2);
    return shared_out ? best_split_apart(n_threads) : together;
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
