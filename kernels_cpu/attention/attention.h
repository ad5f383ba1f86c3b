// Attention over a KV cache whose answer does not depend on where its cells lie, how the work is split, or who else is in the batch, to
// the bit. Written once over 16 lanes (`L`, lanes_<isa>.h) and over what keys and values are stored as (`K` and `V`, kv_<format>.h); each
// attention_<format>_<isa>.cc brings them together.
//
// Floating-point sums depend on their order, and a sequence's cells may lie in any order (a shared cache fills its holes). So:
//
//   scores   s = q . k of one cell, in an order of its own that the kind of keys fixes: per cell, none to choose
//   weights  p = exp(s - max s) with the last bit of the mantissa set; their sum as integers of 2^-30: exact
//   output   sum of p v, in an accumulator that starts at C = 1.5 * 2^k with 2^(k-1) > 1.125 * sum(p) * max|v|: all partial sums stay
//            between 2^k and 2^(k+1), so every fused multiply-add rounds its product to a multiple of 2^(k-23), whatever was added before.
//            A tie, which would round by what is there, needs a product that is an odd multiple of 2^(k-24). p has its bit 2^-23 set
//            relative to its exponent, so such a product would be at least 2^(k-1): more than the bound allows. Hence the sum is that of
//            the rounded products, which no order changes. Its error is at most n * 2^-24 of 2^k, far below that of stored v.
//
// Two passes over the scores instead of a running maximum, which would bring order back. And so the cells of a unit may be dealt out to
// several threads, a part each: maxima, integers, and accumulators less C (multiples of 2^(k-23) below 2^(k-1)) add up without rounding.
#ifndef EI_ATTENTION_ATTENTION_H
#define EI_ATTENTION_ATTENTION_H

#include <type_traits>

#include "attention/unit.h"

namespace ei {
namespace {

// The mask values of one tile for each token; minus infinity for padding. A bit per token: whether it sees any of the tile, and whether its
// values are all zero.
struct TileMask {
    uint64_t any, plain;
};

template <class L>
TileMask load_mask(const Unit &u, int first) {
    TileMask found{0, 0};
    const int32_t *const cells = u.s.cells + first;
    const int n = u.n_cells - first < kTileCells ? u.n_cells - first : kTileCells;
    const bool run = n == kTileCells && cells[kTileCells - 1] - cells[0] == kTileCells - 1;
    for (int t = 0; t < u.n_tokens; ++t) {
        float *const to = u.s.mask + t * kTileCells;
        const uint16_t *const from = u.mask_row(t);
        const uint64_t token = uint64_t{1} << t;
        if (run && L::differs_64(from + cells[0], 0) == 0) {
            found.any |= token, found.plain |= token;
        } else if (run) {
            for (int i = 0; i < kTileCells; i += 16) L::store(to + i, L::load_half(from + cells[0] + i));
            if (L::differs_64(from + cells[0], kMinusInfinity) != 0) found.any |= token;
        } else {
            for (int i = 0; i < kTileCells; ++i) {
                const uint16_t value = i < n ? from[cells[i]] : kMinusInfinity;
                if (value != kMinusInfinity) found.any |= token;
                to[i] = half_to_float(value);
            }
        }
    }
    return found;
}

// Calls work(row, R) for runs of up to 6 rows; R is the run's length as a type.
template <class Work>
void for_row_runs(const Unit &u, Work work) {
    for (int row = 0, n; row < u.rows(); row += n) {
        n = u.rows() - row < kRunRows ? u.rows() - row : kRunRows;
        switch (n) {
            case 1: work(row, std::integral_constant<int, 1>()); break;
            case 2: work(row, std::integral_constant<int, 2>()); break;
            case 3: work(row, std::integral_constant<int, 3>()); break;
            case 4: work(row, std::integral_constant<int, 4>()); break;
            case 5: work(row, std::integral_constant<int, 5>()); break;
            default: work(row, std::integral_constant<int, 6>()); break;
        }
    }
}

// Whether a token of these rows is among `tokens`.
bool any_of_rows(const Unit &u, uint64_t tokens, int row, int n) {
    bool any = false;
    for (int r = row; r < row + n; ++r) any |= (tokens >> u.token(r) & 1) != 0;
    return any;
}

// ---- Scores.

// What is masked becomes minus infinity by choice, not by a sum: a freed cell may hold NaN.
template <class L>
void mask_scores(const Unit &u, int first, const TileMask &mask) {
    for (int row = 0; row < u.rows(); ++row) {
        float *const to = u.scores(row) + first;
        const int token = u.token(row);
        if ((mask.plain >> token & 1) != 0) continue;
        const bool seen = (mask.any >> token & 1) != 0;
        for (int i = 0; i < kTileCells; i += 16) {
            const typename L::F value = L::load(u.s.mask + token * kTileCells + i);
            L::store(to + i, seen ? L::masked(L::add(L::load(to + i), value), value) : L::set(-HUGE_VALF));
        }
    }
}

template <class L>
float max_of_scores(const float *row, int n) {
    typename L::F largest = L::set(-HUGE_VALF), bad = L::set(0.0f);
    for (int i = 0; i < n; i += 16) {
        const typename L::F s = L::load(row + i);
        largest = L::max(largest, s);
        bad = L::or_unordered(bad, s);
    }
    const float max = L::reduce_max(largest);
    return L::any(bad) || max == HUGE_VALF ? bits_float(0x7fc00000) : max;
}

// The cells of the tile that begins at `first`, for `address` u.k_cell or u.v_cell.
template <class Address>
void point_at(const Unit &u, int first, Address address, const char *(&cells)[kTileCells]) {
    for (int i = 0; i < kTileCells; ++i) cells[i] = address(u.s.cells[first + i]);
}

// Along with the tile's scores, what its values will need: their stream from memory hides behind the products.
template <class L, class K, class V>
void score(Unit &u) {
    const int64_t d = u.args.head_dim;
    const size_t stride = static_cast<size_t>(u.n_padded), query_bytes = K::query_bytes(d);
    for (int row = 0; row < u.rows(); ++row) {
        const char *const from = u.args.q + u.query_token(row) * u.args.q_token_stride + u.query_head(row) * u.args.q_head_stride;
        K::prepare_query(reinterpret_cast<const float *>(from), u.args.scale, d, u.s.q + static_cast<size_t>(row) * query_bytes);
    }
    const auto k_cell = [&](int32_t cell) { return u.k_cell(cell); };
    const auto v_cell = [&](int32_t cell) { return u.v_cell(cell); };
    for (int first = 0; first < u.n_padded; first += kTileCells) {
        const TileMask mask = load_mask<L>(u, first);
        const char *cells[kTileCells], *next[kTileCells];
        point_at(u, first, k_cell, cells);
        point_at(u, u.next_tile(first), k_cell, next);
        K::load_tile(cells, next, d, u.s.tile);
        for_row_runs(u, [&](int row, auto n) {
            if (!any_of_rows(u, mask.any, row, n)) return;
            const char *const q = u.s.q + static_cast<size_t>(row) * query_bytes;
            K::template score<decltype(n)::value>(q, d, u.s.tile, u.scores(row) + first, stride);
        });
        mask_scores<L>(u, first, mask);
        point_at(u, first, v_cell, cells);
        point_at(u, u.next_tile(first), v_cell, next);
        for (int i = 0; i < kTileCells; ++i) {
            prefetch_cells(next + i, 1, 0, V::cell_bytes(d));
            u.s.v_max[first + i] = V::largest(cells[i], d);
        }
    }
    for (int row = 0; row < u.rows(); ++row) u.s.states[row].max = max_of_scores<L>(u.scores(row), u.n_padded);
}

// ---- Weights.

// Of all parts; NaN if any is.
float gather_max(const Unit &u, int row) {
    float max = -HUGE_VALF;
    for (int p = 0; p < u.n_parts; ++p) {
        const float one = u.of_part(u.s.states, p)[row].max;
        if (!(max >= one) && max == max) max = one;
    }
    return max;
}

// Turns a row of scores into weights: none where the row has no answer, or sees nothing.
template <class L>
void weigh(float *row, float max, const float *v_max, int n, RowState &state) {
    typename L::Sum sum = L::no_integers();
    typename L::F bound = L::set(0.0f);
    if (max > -HUGE_VALF) {
        for (int i = 0; i < n; i += 16) {
            const typename L::F p = L::weight(L::sub(L::load(row + i), L::set(max)));
            L::store(row + i, p);
            sum = L::add_integers(sum, L::mul(p, L::set(0x1p30f)));
            bound = L::max(bound, L::where_nonzero(p, L::load(v_max + i)));
        }
    } else {
        for (int i = 0; i < n; i += 16) L::store(row + i, L::set(0.0f));
    }
    state.sum = L::total(sum);
    state.v_max = L::reduce_max(bound);
}

template <class L>
void weigh_all(Unit &u) {
    for (int row = 0; row < u.rows(); ++row) weigh<L>(u.scores(row), gather_max(u, row), u.s.v_max, u.n_padded, u.s.states[row]);
}

struct RowTotal {
    float sum;     // of all weights; NaN marks a row that has no finite answer
    float offset;  // C of the accumulators
};

// C = 1.5 * 2^k with 2^(k-1) > 1.125 * bound.
float accumulator_offset(float bound) {
    const uint32_t exponent = float_bits(1.125f * bound) >> 23;
    const uint32_t k = (exponent < 30 ? 30 : exponent) + 2;  // biased; below 2^-97 nothing is lost
    return bits_float(k << 23 | 0x400000);
}

RowTotal gather_total(const Unit &u, int row) {
    int64_t units = 0;
    float v_max = 0.0f, max = gather_max(u, row);
    for (int p = 0; p < u.n_parts; ++p) {
        const RowState &one = u.of_part(u.s.states, p)[row];
        units += one.sum;
        v_max = one.v_max > v_max ? one.v_max : v_max;
    }
    if (max != max || v_max == HUGE_VALF) return {bits_float(0x7fc00000), 1.0f};
    const float sum = static_cast<float>(static_cast<double>(units) * 0x1p-30);
    return {sum, accumulator_offset(sum * v_max)};
}

// ---- Values.

// Accumulators of R rows x 16 * N dimensions from `at` on, over those cells of a tile that `used` has; load(i, at): dimensions
// at .. at + 15 of its cell i.
template <class L, int R, int N, class Load>
EI_FORCE_INLINE void add_columns(const float *weights, size_t stride, uint64_t used, Load load, int64_t at, int64_t head_dim, float *out) {
    typename L::F sum[R][N];
    EI_UNROLL
    for (int r = 0; r < R; ++r) {
        EI_UNROLL
        for (int j = 0; j < N; ++j) sum[r][j] = L::load(out + r * head_dim + at + 16 * j);
    }
    for (; used != 0; used &= used - 1) {
        const int i = lowest_bit(used);
        typename L::F v[N];
        EI_UNROLL
        for (int j = 0; j < N; ++j) v[j] = load(i, at + 16 * j);
        EI_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename L::F p = L::set(weights[r * stride + i]);
            EI_UNROLL
            for (int j = 0; j < N; ++j) sum[r][j] = L::fma(p, v[j], sum[r][j]);
        }
    }
    EI_UNROLL
    for (int r = 0; r < R; ++r) {
        EI_UNROLL
        for (int j = 0; j < N; ++j) L::store(out + r * head_dim + at + 16 * j, sum[r][j]);
    }
}

template <class L, int R, class Load>
void add_rows(const float *weights, size_t stride, uint64_t used, Load load, int64_t head_dim, float *out) {
    constexpr int64_t kWide = 16 * L::kVectors;
    int64_t at = 0;
    for (; at + kWide <= head_dim; at += kWide) add_columns<L, R, L::kVectors>(weights, stride, used, load, at, head_dim, out);
    for (; at < head_dim; at += 16) add_columns<L, R, 1>(weights, stride, used, load, at, head_dim, out);
}

// The cells of a tile of V. Padding has no weight, and what is not finite belongs to rows that are marked already: both are read as zeros,
// for 0 * infinity must not reach other rows.
void point_at_values(const Unit &u, int first, const char *(&cells)[kTileCells]) {
    alignas(64) static const char zeros[512 * sizeof(uint16_t)] = {};
    for (int i = 0; i < kTileCells; ++i) {
        const bool use = first + i < u.n_cells && u.s.v_max[first + i] != HUGE_VALF;
        cells[i] = use ? u.v_cell(u.s.cells[first + i]) : zeros;
    }
}

// 2^(k-24) of an accumulator that begins at C.
float half_of_last_place(float offset) { return bits_float((float_bits(offset) & 0x7f800000) - (24u << 23)); }

// The cells of a tile that change the sums of these rows. Less than half the accumulator's last place is rounded away, whatever
// was added before; at long context that is much of what many heads look at.
template <class L>
uint64_t cells_used(const Unit &u, int first, int row, int n) {
    uint64_t used = 0;
    for (int r = row; r < row + n; ++r) used |= L::reaches_64(u.scores(r) + first, u.s.v_max + first, half_of_last_place(u.s.offset[r]));
    return used;
}

template <class L, class V>
void add_tile(const Unit &u, int first) {
    const int64_t d = u.args.head_dim;
    const size_t stride = static_cast<size_t>(u.n_padded);
    const char *cells[kTileCells], *next[kTileCells];
    point_at_values(u, first, cells);
    point_at(u, u.next_tile(first), [&](int32_t cell) { return u.v_cell(cell); }, next);
    uint64_t *const used = u.s.used;
    uint64_t any = 0;
    for_row_runs(u, [&](int row, auto n) { any |= used[row / kRunRows] = cells_used<L>(u, first, row, n); });
    const auto add = [&](auto load) {
        for_row_runs(u, [&](int row, auto n) {
            if (const uint64_t bits = used[row / kRunRows]) {
                add_rows<L, decltype(n)::value>(u.scores(row) + first, stride, bits, load, d, u.s.out + row * d);
            }
        });
    };
    if (u.rows() <= kRunRows) {
        add([&](int i, int64_t at) {
            if (at % 32 == 0) prefetch_cells(next + i, 1, V::offset(at), V::offset(at) + 1);
            return V::load(cells[i], at);
        });
    } else {  // several runs of rows: converted once for all
        float *const tile = reinterpret_cast<float *>(u.s.tile);
        for (; any != 0; any &= any - 1) {
            const int i = lowest_bit(any);
            prefetch_cells(next + i, 1, 0, V::cell_bytes(d));
            for (int64_t at = 0; at < d; at += 16) L::store(tile + i * d + at, V::load(cells[i], at));
        }
        add([=](int i, int64_t at) { return L::load(tile + i * d + at); });
    }
}

// Leaves the part's sums, without C.
template <class L, class V>
void add_values(Unit &u) {
    const int64_t d = u.args.head_dim;
    for (int row = 0; row < u.rows(); ++row) {
        u.s.offset[row] = gather_total(u, row).offset;
        for (int64_t i = 0; i < d; i += 16) L::store(u.s.out + row * d + i, L::set(u.s.offset[row]));
    }
    for (int first = 0; first < u.n_padded; first += kTileCells) add_tile<L, V>(u, first);
    for (int row = 0; row < u.rows(); ++row) {
        const typename L::F offset = L::set(u.s.offset[row]);
        for (int64_t i = 0; i < d; i += 16) L::store(u.s.out + row * d + i, L::sub(L::load(u.s.out + row * d + i), offset));
    }
}

// Each part stores every n_parts-th row.
template <class L>
void store_rows(const Unit &u) {
    const int64_t d = u.args.head_dim;
    for (int row = u.part; row < u.rows(); row += u.n_parts) {
        char *const out = u.args.out + u.query_token(row) * u.args.out_token_stride + u.query_head(row) * u.args.out_head_stride;
        float *const to = reinterpret_cast<float *>(out);
        const float sum = gather_total(u, row).sum, scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (int64_t i = 0; i < d; i += 16) {
            typename L::F total = L::set(0.0f);
            for (int p = 0; p < u.n_parts; ++p) total = L::add(total, L::load(u.of_part(u.s.out, p) + row * d + i));
            L::store(to + i, L::mul(total, L::set(scale)));
        }
    }
}

// ---- All of it.

// The tokens [first_token, first_token + n_tokens) and heads [first_head, first_head + n_heads) of one KV head's group, over all cells.
template <class L, class K, class V>
void attend_whole(const AttentionArgs &args, const AttentionUnit &unit) {
    for (int done = 0; done < unit.n_tokens;) {
        const int left = unit.n_tokens - done;
        Unit u{args, unit.kv_head, unit.first_token + done, left, unit.first_head, unit.n_heads, 0, 1, 0, 0, 0,
               carve_scratch(unit.scratch, args.n_kv, args.head_dim, unit.n_tokens, unit.n_tokens * unit.n_heads)};
        for (int t = 0; t < left; ++t) find_seen<L>(u, t);
        u.n_tokens = group_tokens(u, left);
        list_cells(u);
        score<L, K, V>(u);
        weigh_all<L>(u);
        add_values<L, V>(u);
        store_rows<L>(u);
        done += u.n_tokens;
    }
}

// One step of one part. Tokens stay together: a cell that one of them does not see has no weight there.
template <class L, class K, class V>
void attend_part(const AttentionArgs &args, const AttentionUnit &unit) {
    const int rows = unit.n_tokens * unit.n_heads;
    const int64_t n_cells = part_cells(args.n_kv, unit.n_parts), first = n_cells * unit.part;
    const size_t stride = part_bytes(n_cells, args.head_dim, unit.n_tokens, unit.n_heads);
    AttentionArgs own = args;
    own.n_kv = first >= args.n_kv ? 0 : (args.n_kv - first < n_cells ? args.n_kv - first : n_cells);
    if (own.n_kv > 0) {
        own.k += static_cast<size_t>(first) * args.k_cell_stride;
        own.v += static_cast<size_t>(first) * args.v_cell_stride;
        own.mask += static_cast<size_t>(first) * sizeof(uint16_t);
    }
    char *const scratch = static_cast<char *>(unit.scratch) + static_cast<size_t>(unit.part) * stride;
    Unit u{own, unit.kv_head, unit.first_token, unit.n_tokens, unit.first_head, unit.n_heads, unit.part, unit.n_parts, stride, 0, 0,
           carve_scratch(scratch, n_cells, args.head_dim, unit.n_tokens, rows)};
    if (unit.step == EI_ATTENTION_SCORES) {
        for (int t = 0; t < u.n_tokens; ++t) find_seen<L>(u, t);
        list_cells(u);
        *u.s.n_cells = u.n_cells;
        score<L, K, V>(u);
        return;
    }
    set_length(u, *u.s.n_cells);
    if (unit.step == EI_ATTENTION_WEIGHTS) weigh_all<L>(u);
    if (unit.step == EI_ATTENTION_VALUES) add_values<L, V>(u);
    if (unit.step == EI_ATTENTION_OUTPUT) store_rows<L>(u);
}

template <class L, class K, class V>
void attend(const AttentionArgs &args, const AttentionUnit &unit) {
    if (unit.n_parts > 1) attend_part<L, K, V>(args, unit);
    else attend_whole<L, K, V>(args, unit);
}

}  // namespace
}  // namespace ei
#endif
