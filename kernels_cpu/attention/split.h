// How attention is shared out among threads, whoever they belong to: into units of tokens and heads, and those into parts of their cells.
// What it answers never depends on it. Knows neither ggml nor ONNX Runtime.
#ifndef EI_ATTENTION_SPLIT_H
#define EI_ATTENTION_SPLIT_H

#include <cstddef>
#include <cstdint>

#include "edgeinfer_kernels.h"

namespace ei {

struct Split {
    int tokens, heads, parts;  // of one unit
    int64_t token_blocks, head_blocks, n_units;
};

struct AttentionShape {
    int64_t head_dim, n_kv, n_tokens, n_kv_heads, n_streams;
    int n_group;

    // The split whose busiest thread has least to do, for tokens that see much the same cells.
    Split best_split(int n_threads) const;
    // The same for tokens that see cells of their own, such as those of several sequences: a unit reads each of its tokens' cells once, but
    // a part of a unit computes all of its tokens over all of its cells.
    Split best_split_apart(int n_threads) const;
    // The one of these for the masks [n_tokens] of halves, a row every `stride` bytes.
    Split best_split_for(const char *masks, size_t stride, int n_threads) const;
    // One row a unit: the least scratch that a thread can do with.
    Split finest_split() const;

    // Parts of a unit are together in memory, and each unit's is its own until the last step; else each thread's.
    size_t scratch_bytes(const Split &s) const;
    size_t work_bytes(const Split &s, int n_threads) const {
        return scratch_bytes(s) * static_cast<size_t>(s.parts > 1 ? s.n_units : n_threads);
    }
    // Which tokens and heads a unit has, of which stream. Its scratch, part and step are the caller's to fill in.
    ei_attention_unit unit(const Split &s, int64_t index, int64_t *stream) const;

  private:
    Split split(int64_t token_blocks, int64_t heads) const;
    int64_t cost(const Split &s, int n_threads) const;
    int64_t cost_apart(const Split &s, int n_threads) const;
    int64_t most_rows() const;
};

}  // namespace ei
#endif
