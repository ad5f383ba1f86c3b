// Attention over a half-precision KV cache whose answer does not depend on where its cells lie, how the work is split, or who else is in
// the batch, to the bit. Written once over 16 lanes; each attention_f16_<isa>.cc brings the lanes.
//
// Floating-point sums depend on their order, and a sequence's cells may lie in any order (a shared cache fills its holes). So:
//
//   scores   s = sum over d of q[d] k[d], one fused multiply-add after the other: per cell, no order to choose
//   weights  p = exp(s - max s) with the last bit of the mantissa set; their sum as integers of 2^-30: exact
//   output   sum of p v, in an accumulator that starts at C = 1.5 * 2^k with 2^(k-1) > 1.125 * sum(p) * max|v|: all partial sums stay
//            between 2^k and 2^(k+1), so every fused multiply-add rounds its product to a multiple of 2^(k-23), whatever was added before.
//            A tie, which would round by what is there, needs a product that is an odd multiple of 2^(k-24). p has its bit 2^-23 set
//            relative to its exponent, so such a product would be at least 2^(k-1): more than the bound allows. Hence the sum is that of
//            the rounded products, which no order changes. Its error is at most n * 2^-24 of 2^k, far below that of half-precision v.
//
// Two passes over the scores instead of a running maximum, which would bring order back.
#ifndef EI_ATTENTION_ATTENTION_H
#define EI_ATTENTION_ATTENTION_H

#include <cmath>
#include <cstring>

#include "core/compiler.h"
#include "core/half.h"
#include "core/kernel.h"

namespace ei {
namespace {

constexpr int kTileCells = 64;
constexpr uint16_t kMinusInfinity = 0xfc00, kHalfInfinity = 0x7c00;

// What one unit of work keeps; carved from the caller's scratch.
struct Scratch {
    int32_t *cells;    // [n_kv + 64] cells that some token of the group sees, then padding
    uint64_t *seen;    // [n_tokens][n_words] bit per cell
    float *v_max;      // [n_kv + 64] largest |v| of each listed cell, infinity where one is not finite
    float *q;          // [rows][head_dim], scaled
    float *out;        // [rows][head_dim] accumulators
    float *offset;     // [rows] C of the accumulators
    float *sum;        // [rows] sum of weights; NaN marks a row that has no finite answer
    float *tile;       // [64][head_dim]: a tile of K, transposed, or of V
    float *mask;       // [n_tokens][64] of a tile
    float *scores;     // [rows][n_kv + 64]
};

struct Unit {
    const AttentionArgs &args;
    int kv_head, first_token, n_tokens, first_head, n_heads;  // heads of the group that share kv_head
    int n_cells, n_padded;
    Scratch s;

    int rows() const { return n_tokens * n_heads; }
    const uint16_t *mask_row(int token) const {
        return reinterpret_cast<const uint16_t *>(args.mask + static_cast<size_t>(first_token + token) * args.mask_token_stride);
    }
    const char *k_cell(int32_t cell) const { return args.k + static_cast<size_t>(cell) * args.k_cell_stride + static_cast<size_t>(kv_head) * args.k_head_stride; }
    const char *v_cell(int32_t cell) const { return args.v + static_cast<size_t>(cell) * args.v_cell_stride + static_cast<size_t>(kv_head) * args.v_head_stride; }
    size_t query_head(int row) const { return static_cast<size_t>(kv_head) * args.n_group + first_head + row % n_heads; }
    size_t query_token(int row) const { return static_cast<size_t>(first_token) + row / n_heads; }
};

template <class T>
T *carve(char *&at, size_t n) {
    T *const here = reinterpret_cast<T *>(at);
    at += round_up(n * sizeof(T), 64);
    return here;
}

Scratch carve_scratch(void *memory, const AttentionArgs &args, int n_tokens, int rows) {
    char *at = static_cast<char *>(memory);
    const size_t n = round_up(static_cast<size_t>(args.n_kv), 64) + kTileCells, r = static_cast<size_t>(rows), d = static_cast<size_t>(args.head_dim);
    Scratch s;
    s.cells = carve<int32_t>(at, n);
    s.seen = carve<uint64_t>(at, static_cast<size_t>(n_tokens) * (n / 64));
    s.v_max = carve<float>(at, n);
    s.q = carve<float>(at, r * d);
    s.out = carve<float>(at, r * d);
    s.offset = carve<float>(at, r);
    s.sum = carve<float>(at, r);
    s.tile = carve<float>(at, kTileCells * d);
    s.mask = carve<float>(at, static_cast<size_t>(n_tokens) * kTileCells);
    s.scores = carve<float>(at, r * n);
    return s;
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
    int n = 0;
    for (; bits != 0; bits &= bits - 1) ++n;
    return n;
}

int lowest_bit(uint64_t bits) { return count_bits((bits & (~bits + 1)) - 1); }

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
    u.n_cells = n;
    u.n_padded = static_cast<int>(round_up(static_cast<size_t>(n), kTileCells));
    for (int i = n; i < u.n_padded; ++i) u.s.cells[i] = u.s.cells[n - 1];
}

// The mask values of one tile for each token; minus infinity for padding. Returns a bit per token that sees any of the tile.
template <class L>
uint64_t load_mask(const Unit &u, int first) {
    uint64_t any = 0;
    const int32_t *const cells = u.s.cells + first;
    const int n = u.n_cells - first < kTileCells ? u.n_cells - first : kTileCells;
    const bool run = n == kTileCells && cells[kTileCells - 1] - cells[0] == kTileCells - 1;
    for (int t = 0; t < u.n_tokens; ++t) {
        float *const to = u.s.mask + t * kTileCells;
        const uint16_t *const from = u.mask_row(t);
        bool seen = false;
        if (run) {
            for (int i = 0; i < kTileCells; i += 16) L::store(to + i, L::load_half(from + cells[0] + i));
            seen = L::differs_64(from + cells[0], kMinusInfinity) != 0;
        } else {
            for (int i = 0; i < kTileCells; ++i) {
                const uint16_t value = i < n ? from[cells[i]] : kMinusInfinity;
                seen |= value != kMinusInfinity;
                to[i] = half_to_float(value);
            }
        }
        if (seen) any |= uint64_t{1} << t;
    }
    return any;
}

// ---- Scores.

template <class L, int R>
void score_rows(const float *q, int64_t head_dim, const float *k, float *scores, size_t stride) {
    for (int first = 0; first < kTileCells; first += 16 * L::kVectors) {
        typename L::F sum[R][L::kVectors];
        EI_UNROLL
        for (int r = 0; r < R; ++r) {
            EI_UNROLL
            for (int j = 0; j < L::kVectors; ++j) sum[r][j] = L::set(0.0f);
        }
        for (int64_t d = 0; d < head_dim; ++d) {
            typename L::F kd[L::kVectors];
            EI_UNROLL
            for (int j = 0; j < L::kVectors; ++j) kd[j] = L::load(k + d * kTileCells + first + 16 * j);
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                const typename L::F qd = L::set(q[r * head_dim + d]);
                EI_UNROLL
                for (int j = 0; j < L::kVectors; ++j) sum[r][j] = L::fma(qd, kd[j], sum[r][j]);
            }
        }
        EI_UNROLL
        for (int r = 0; r < R; ++r) {
            EI_UNROLL
            for (int j = 0; j < L::kVectors; ++j) L::store(scores + r * stride + first + 16 * j, sum[r][j]);
        }
    }
}

// ---- Values: accumulators of R rows x 16 * kVectors dimensions over the cells of a tile.

template <class L, int R>
void weigh_rows(const float *weights, size_t stride, const float *v, int64_t head_dim, float *out) {
    for (int64_t first = 0; first < head_dim; first += 16 * L::kVectors) {
        const int64_t n = head_dim - first < 16 * L::kVectors ? 1 : L::kVectors;  // a rest goes 16 by 16
        if (n == L::kVectors) {
            typename L::F sum[R][L::kVectors];
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                EI_UNROLL
                for (int j = 0; j < L::kVectors; ++j) sum[r][j] = L::load(out + r * head_dim + first + 16 * j);
            }
            for (int i = 0; i < kTileCells; ++i) {
                typename L::F vi[L::kVectors];
                EI_UNROLL
                for (int j = 0; j < L::kVectors; ++j) vi[j] = L::load(v + i * head_dim + first + 16 * j);
                EI_UNROLL
                for (int r = 0; r < R; ++r) {
                    const typename L::F p = L::set(weights[r * stride + i]);
                    EI_UNROLL
                    for (int j = 0; j < L::kVectors; ++j) sum[r][j] = L::fma(p, vi[j], sum[r][j]);
                }
            }
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                EI_UNROLL
                for (int j = 0; j < L::kVectors; ++j) L::store(out + r * head_dim + first + 16 * j, sum[r][j]);
            }
            continue;
        }
        for (int64_t at = first; at < head_dim; at += 16) {
            for (int r = 0; r < R; ++r) {
                typename L::F sum = L::load(out + r * head_dim + at);
                for (int i = 0; i < kTileCells; ++i) sum = L::fma(L::set(weights[r * stride + i]), L::load(v + i * head_dim + at), sum);
                L::store(out + r * head_dim + at, sum);
            }
        }
    }
}

// Calls Rows<R>::run for runs of up to kRows rows of which some token sees the tile.
template <class L, class Work>
void for_row_runs(const Unit &u, uint64_t tokens, Work work) {
    for (int row = 0; row < u.rows();) {
        const int n = u.rows() - row < L::kRows ? u.rows() - row : L::kRows;
        const int from = row / u.n_heads, to = (row + n - 1) / u.n_heads;
        bool any = false;
        for (int t = from; t <= to; ++t) any |= (tokens >> t & 1) != 0;
        if (any) work(row, n);
        row += n;
    }
}

template <class L>
void score(Unit &u) {
    const int64_t d = u.args.head_dim;
    const size_t stride = static_cast<size_t>(u.n_padded);
    for (int row = 0; row < u.rows(); ++row) {
        const float *const from = reinterpret_cast<const float *>(u.args.q + u.query_token(row) * u.args.q_token_stride + u.query_head(row) * u.args.q_head_stride);
        for (int64_t i = 0; i < d; i += 16) L::store(u.s.q + row * d + i, L::mul(L::load(from + i), L::set(u.args.scale)));
    }
    for (int first = 0; first < u.n_padded; first += kTileCells) {
        const uint64_t tokens = load_mask<L>(u, first);
        for (int i = 0; i < kTileCells; i += 16) {
            const char *cells[16];
            for (int j = 0; j < 16; ++j) cells[j] = u.k_cell(u.s.cells[first + i + j]);
            for (int64_t at = 0; at < d; at += 16) L::transpose_half(cells, at, u.s.tile + at * kTileCells + i, kTileCells);
        }
        for_row_runs<L>(u, tokens, [&](int row, int n) {
            const float *const q = u.s.q + row * d;
            float *const to = u.s.scores + static_cast<size_t>(row) * stride + first;
            switch (n) {
                case 1: return score_rows<L, 1>(q, d, u.s.tile, to, stride);
                case 2: return score_rows<L, 2>(q, d, u.s.tile, to, stride);
                case 3: return score_rows<L, 3>(q, d, u.s.tile, to, stride);
                case 4: return score_rows<L, 4>(q, d, u.s.tile, to, stride);
                case 5: return score_rows<L, 5>(q, d, u.s.tile, to, stride);
                default: return score_rows<L, 6>(q, d, u.s.tile, to, stride);
            }
        });
        // What is masked becomes minus infinity by choice, not by a sum: a freed cell may hold NaN.
        for (int row = 0; row < u.rows(); ++row) {
            float *const to = u.s.scores + static_cast<size_t>(row) * stride + first;
            const int token = row / u.n_heads;
            for (int i = 0; i < kTileCells; i += 16) {
                const typename L::F mask = L::load(u.s.mask + token * kTileCells + i);
                const bool seen = (tokens >> token & 1) != 0;
                L::store(to + i, seen ? L::masked(L::add(L::load(to + i), mask), mask) : L::set(-HUGE_VALF));
            }
        }
    }
}

// ---- Weights.

template <class L>
void find_v_max(Unit &u) {
    for (int i = 0; i < u.n_padded; ++i) {
        const uint16_t largest = L::largest_half(reinterpret_cast<const uint16_t *>(u.v_cell(u.s.cells[i])), u.args.head_dim);
        u.s.v_max[i] = largest < kHalfInfinity ? half_to_float(largest) : HUGE_VALF;
    }
}

struct Weights {
    float sum;    // 0 where nothing is seen, NaN where a score is not a number
    float v_max;  // of the cells that have a weight
};

// Turns a row of scores into weights.
template <class L>
Weights weigh(float *row, const float *v_max, int n) {
    typename L::F largest = L::set(-HUGE_VALF), bad = L::set(0.0f);
    for (int i = 0; i < n; i += 16) {
        const typename L::F s = L::load(row + i);
        largest = L::max(largest, s);
        bad = L::or_unordered(bad, s);
    }
    const float max = L::reduce_max(largest);
    if (L::any(bad) || max == HUGE_VALF) return {bits_float(0x7fc00000), 0.0f};
    if (max == -HUGE_VALF) {
        for (int i = 0; i < n; i += 16) L::store(row + i, L::set(0.0f));
        return {0.0f, 0.0f};
    }
    typename L::Sum sum = L::no_integers();
    typename L::F bound = L::set(0.0f);
    for (int i = 0; i < n; i += 16) {
        const typename L::F p = L::weight(L::sub(L::load(row + i), L::set(max)));
        L::store(row + i, p);
        sum = L::add_integers(sum, L::mul(p, L::set(0x1p30f)));
        bound = L::max(bound, L::where_nonzero(p, L::load(v_max + i)));
    }
    return {static_cast<float>(static_cast<double>(L::total(sum)) * 0x1p-30), L::reduce_max(bound)};
}

// C = 1.5 * 2^k with 2^(k-1) > 1.125 * bound.
float accumulator_offset(float bound) {
    const uint32_t exponent = float_bits(1.125f * bound) >> 23;
    const uint32_t k = (exponent < 30 ? 30 : exponent) + 2;  // biased; below 2^-97 nothing is lost
    return bits_float(k << 23 | 0x400000);
}

template <class L>
void weigh_all(Unit &u) {
    const int64_t d = u.args.head_dim;
    for (int row = 0; row < u.rows(); ++row) {
        float *const weights = u.s.scores + static_cast<size_t>(row) * static_cast<size_t>(u.n_padded);
        const Weights w = weigh<L>(weights, u.s.v_max, u.n_padded);
        const float sum = w.v_max == HUGE_VALF ? bits_float(0x7fc00000) : w.sum;
        const float offset = sum == sum ? accumulator_offset(sum * w.v_max) : 1.0f;
        u.s.sum[row] = sum;
        u.s.offset[row] = offset;
        for (int64_t i = 0; i < d; i += 16) L::store(u.s.out + row * d + i, L::set(offset));
    }
}

template <class L>
void add_values(Unit &u) {
    const int64_t d = u.args.head_dim;
    const size_t stride = static_cast<size_t>(u.n_padded);
    for (int first = 0; first < u.n_padded; first += kTileCells) {
        uint64_t tokens = 0;
        for (int row = 0; row < u.rows(); ++row) {
            if (L::any_nonzero_64(u.s.scores + static_cast<size_t>(row) * stride + first)) tokens |= uint64_t{1} << (row / u.n_heads);
        }
        if (tokens == 0) continue;
        for (int i = 0; i < kTileCells; ++i) {
            float *const to = u.s.tile + i * d;
            const uint16_t *const from = reinterpret_cast<const uint16_t *>(u.v_cell(u.s.cells[first + i]));
            // Padding has no weight, and what is not finite belongs to rows that are marked already: 0 * infinity must not reach others.
            const bool use = first + i < u.n_cells && u.s.v_max[first + i] != HUGE_VALF;
            for (int64_t at = 0; at < d; at += 16) L::store(to + at, use ? L::load_half(from + at) : L::set(0.0f));
        }
        for_row_runs<L>(u, tokens, [&](int row, int n) {
            const float *const weights = u.s.scores + static_cast<size_t>(row) * stride + first;
            float *const out = u.s.out + row * d;
            switch (n) {
                case 1: return weigh_rows<L, 1>(weights, stride, u.s.tile, d, out);
                case 2: return weigh_rows<L, 2>(weights, stride, u.s.tile, d, out);
                case 3: return weigh_rows<L, 3>(weights, stride, u.s.tile, d, out);
                case 4: return weigh_rows<L, 4>(weights, stride, u.s.tile, d, out);
                case 5: return weigh_rows<L, 5>(weights, stride, u.s.tile, d, out);
                default: return weigh_rows<L, 6>(weights, stride, u.s.tile, d, out);
            }
        });
    }
}

template <class L>
void store_rows(const Unit &u) {
    const int64_t d = u.args.head_dim;
    for (int row = 0; row < u.rows(); ++row) {
        float *const to = reinterpret_cast<float *>(u.args.out + u.query_token(row) * u.args.out_token_stride + u.query_head(row) * u.args.out_head_stride);
        const float sum = u.s.sum[row], scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        const typename L::F offset = L::set(u.s.offset[row]);
        for (int64_t i = 0; i < d; i += 16) L::store(to + i, L::mul(L::sub(L::load(u.s.out + row * d + i), offset), L::set(scale)));
    }
}

// The tokens [first_token, first_token + n_tokens) and heads [first_head, first_head + n_heads) of one KV head's group.
template <class L>
void attend(const AttentionArgs &args, const AttentionUnit &unit) {
    for (int done = 0; done < unit.n_tokens;) {
        const int left = unit.n_tokens - done;
        Unit u{args, unit.kv_head, unit.first_token + done, left, unit.first_head, unit.n_heads, 0, 0,
               carve_scratch(unit.scratch, args, unit.n_tokens, unit.n_tokens * unit.n_heads)};
        for (int t = 0; t < left; ++t) find_seen<L>(u, t);
        u.n_tokens = group_tokens(u, left);
        list_cells(u);
        if (u.n_cells > 0) {
            score<L>(u);
            find_v_max<L>(u);
        }
        weigh_all<L>(u);
        if (u.n_cells > 0) add_values<L>(u);
        store_rows<L>(u);
        done += u.n_tokens;
    }
}

}  // namespace
}  // namespace ei
#endif
