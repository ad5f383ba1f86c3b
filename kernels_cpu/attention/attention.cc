#include "core/kernel.h"

namespace ei {

// The sum of what carve_scratch in attention.h hands out, rounded up generously.
size_t attention_scratch_bytes(int64_t n_kv, int64_t head_dim, int n_tokens, int n_heads) {
    const size_t n = round_up(static_cast<size_t>(n_kv), 64) + 64, d = static_cast<size_t>(head_dim);
    const size_t tokens = static_cast<size_t>(n_tokens), rows = tokens * static_cast<size_t>(n_heads);
    return n * 8 + tokens * n / 8 + rows * (2 * d + 2 + n) * 4 + 64 * d * 4 + tokens * 64 * 4 + 16 * 64;
}

}  // namespace ei
