// What one unit of attention's work is: its share of the scratch memory, and the list of the cells that its tokens see. Knows nothing of
// how keys and values are stored.
#ifndef EI_ATTENTION_UNIT_H
#define EI_ATTENTION_UNIT_H

#include <cmath>
#include <cstring>

#include "attention/parts.h"
#include "core/half.h"

namespace ei {
namespace {

constexpr int kRunRows = 6;  // rows whose sums are in registers together
constexpr uint16_t kMinusInfinity = 0xfc00, kHalfInfinity = 0x7c00;

// What a unit, or one part of its cells, knows of a row.
struct RowState {
    float max;    // of the scores; NaN where one is not a number
    float v_max;  // at least the largest |v| of the cells that have a weight; infinity where one is not finite
    int64_t sum;  // of the weights, in units of 2^-30
};

// What one unit of work, or one part of it, keeps; carved from the caller's scratch.
struct Scratch {
    RowState *states;  // [rows]
    float *out;        // [rows][head_dim] accumulators, later sums
    float *offset;     // [rows] C of the accumulators
    uint64_t *used;    // [runs of rows] cells of a tile of V, a bit each
    int32_t *n_cells;  // of the list
    int32_t *cells;    // [n_kv + 64] cells that some token of the group sees, then padding
    uint64_t *seen;    // [n_tokens][n_words] bit per cell
    float *v_max;      // [n_kv + 64] of each listed cell, as in RowState
    char *q;           // [rows][at most 4 head_dim bytes], scaled; the kind of keys says how
    char *tile;        // [64 * 4 head_dim bytes]: a tile of K as its kind has it, or [64][head_dim] floats of V
    float *mask;       // [n_tokens][64] of a tile
    float *scores;     // [rows][n_kv + 64]
};

struct Unit {
    const AttentionArgs &args;  // k, v, mask and n_kv of the part's cells
    int kv_head, first_token, n_tokens, first_head, n_heads;  // heads of the group that share kv_head
    int part, n_parts;
    size_t stride;  // from one part's scratch to the next one's
    int n_cells, n_padded;
    Scratch s;

    int rows() const { return n_tokens * n_heads; }
    const uint16_t *mask_row(int token) const {
        return reinterpret_cast<const uint16_t *>(args.mask + static_cast<size_t>(first_token + token) * args.mask_token_stride);
    }
    const char *k_cell(int32_t cell) const {
        return args.k + static_cast<size_t>(cell) * args.k_cell_stride + static_cast<size_t>(kv_head) * args.k_head_stride;
    }
    const char *v_cell(int32_t cell) const {
        return args.v + static_cast<size_t>(cell) * args.v_cell_stride + static_cast<size_t>(kv_head) * args.v_head_stride;
    }
    // Rows are the tokens of one head, then those of the next: neighbours in a text weigh the same few cells, heads others.
    int token(int row) const { return row % n_tokens; }
    size_t query_head(int row) const { return static_cast<size_t>(kv_head) * args.n_group + first_head + row / n_tokens; }
    size_t query_token(int row) const { return static_cast<size_t>(first_token) + token(row); }
    int next_tile(int first) const { return first + kTileCells < n_padded ? first + kTileCells : first; }
    float *scores(int row) const { return s.scores + static_cast<size_t>(row) * static_cast<size_t>(n_padded); }
    // The same place in another part's scratch.
    template <class T>
    T *of_part(T *mine, int other) const {
        return reinterpret_cast<T *>(reinterpret_cast<char *>(mine) + (other - part) * static_cast<ptrdiff_t>(stride));
    }
};

template <class T>
T *carve(char *&at, size_t n) {
    T *const here = reinterpret_cast<T *>(at);
    at += round_up(n * sizeof(T), 64);
    return here;
}

// `n_kv`: cells of a part; parts.h adds up the same.
Scratch carve_scratch(void *memory, int64_t n_kv, int64_t head_dim, int n_tokens, int rows) {
    char *at = static_cast<char *>(memory);
    const size_t n = round_up(static_cast<size_t>(n_kv), 64) + kTileCells, r = static_cast<size_t>(rows), d = static_cast<size_t>(head_dim);
    Scratch s;
    s.states = carve<RowState>(at, r);
    s.out = carve<float>(at, r * d);
    s.offset = carve<float>(at, r);
    s.used = carve<uint64_t>(at, (r + kRunRows - 1) / kRunRows);
    s.n_cells = carve<int32_t>(at, 1);
    s.cells = carve<int32_t>(at, n);
    s.seen = carve<uint64_t>(at, static_cast<size_t>(n_tokens) * (n / 64));
    s.v_max = carve<float>(at, n);
    s.q = carve<char>(at, r * d * sizeof(float));
    s.tile = carve<char>(at, kTileCells * d * sizeof(float));
    s.mask = carve<float>(at, static_cast<size_t>(n_tokens) * kTileCells);
    s.scores = carve<float>(at, r * n);
    return s;
}

// Asks for bytes [begin, end) of some cells ahead of their use: they lie too far apart for the processor to guess.
EI_INLINE void prefetch_cells(const char *const *cells, int n, size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += 64) {
        for (int i = 0; i < n; ++i) EI_PREFETCH_L2(cells[i] + at);
    }
}

// ---- Which cells are seen.

template <class L>
void find_seen(const Unit &u, int token) {
    const int64_t n_words = (u.args.n_kv + 63) / 64;
    uint64_t *const words = u.s.seen + token * n_words;
    const uint16_t *const mask = u.mask_row(token);
    for (int64_t w = 0; w < n_words; ++w) {
        uint64_t bits = 0;
        if (64 * w + 64 <= u.args.n_kv) {
            bits = L::differs_64(mask + 64 * w, kMinusInfinity);
        } else {
            for (int64_t i = 64 * w; i < u.args.n_kv; ++i) bits |= uint64_t{mask[i] != kMinusInfinity} << (i - 64 * w);
        }
        words[w] = bits;
    }
}

int count_bits(uint64_t bits) {
    bits -= bits >> 1 & 0x5555555555555555;
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return static_cast<int>(bits * 0x0101010101010101 >> 56);
}

// Of bits that are not all zero.
EI_INLINE int lowest_bit(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(bits);
#else
    return count_bits((bits & (~bits + 1)) - 1);
#endif
}

// The tokens from first on that see mostly the same cells: another sequence's token would only lengthen the list.
int group_tokens(const Unit &u, int n_tokens) {
    const int64_t n_words = (u.args.n_kv + 63) / 64;
    int n = 1;
    for (; n < n_tokens; ++n) {
        const uint64_t *const a = u.s.seen, *const b = u.s.seen + n * n_words;
        int common = 0, either = 0;
        for (int64_t w = 0; w < n_words; ++w) {
            if ((a[w] | b[w]) == 0) continue;
            common += count_bits(a[w] & b[w]);
            either += count_bits(a[w] | b[w]);
        }
        if (2 * common < either) break;
    }
    return n;
}

void set_length(Unit &u, int n_cells) {
    u.n_cells = n_cells;
    u.n_padded = static_cast<int>(round_up(static_cast<size_t>(n_cells), kTileCells));
}

void list_cells(Unit &u) {
    const int64_t n_words = (u.args.n_kv + 63) / 64;
    int n = 0;
    for (int64_t w = 0; w < n_words; ++w) {
        uint64_t bits = 0;
        for (int t = 0; t < u.n_tokens; ++t) bits |= u.s.seen[t * n_words + w];
        if (~bits == 0) {
            for (int i = 0; i < 64; ++i) u.s.cells[n + i] = static_cast<int32_t>(64 * w + i);
            n += 64;
            continue;
        }
        for (; bits != 0; bits &= bits - 1) u.s.cells[n++] = static_cast<int32_t>(64 * w + lowest_bit(bits));
    }
    set_length(u, n);
    for (int i = n; i < u.n_padded; ++i) u.s.cells[i] = u.s.cells[n - 1];
}

}  // namespace
}  // namespace ei
#endif
