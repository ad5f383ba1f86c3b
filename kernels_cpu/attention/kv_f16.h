// Keys and values in half precision. A tile of keys is their floats, transposed; scores are fused multiply-adds over the head.
#ifndef EI_ATTENTION_KV_F16_H
#define EI_ATTENTION_KV_F16_H

#include "attention/unit.h"

namespace ei {
namespace {

template <class L>
struct HalfKeys {
    // A query as floats, times the scale of scores.
    static constexpr size_t query_bytes(int64_t head_dim) { return static_cast<size_t>(head_dim) * sizeof(float); }
    static void prepare_query(const float *from, float scale, int64_t head_dim, char *to) {
        float *const q = reinterpret_cast<float *>(to);
        for (int64_t i = 0; i < head_dim; i += 16) L::store(q + i, L::mul(L::load(from + i), L::set(scale)));
    }

    // 64 cells as tile[head_dim][64], while those that come next are on their way.
    static void load_tile(const char *const *cells, const char *const *next, int64_t head_dim, char *to) {
        float *const tile = reinterpret_cast<float *>(to);
        for (int i = 0; i < kTileCells; i += 16) {
            for (int64_t at = 0; at < head_dim; at += 16) {
                if (at % 32 == 0) prefetch_cells(next + i, 16, static_cast<size_t>(at) * 2, static_cast<size_t>(at) * 2 + 1);
                L::transpose_half(cells + i, at, tile + at * kTileCells + i, kTileCells);
            }
        }
    }

    template <int R>
    static void score(const char *queries, int64_t head_dim, const char *tile, float *scores, size_t stride) {
        const float *const q = reinterpret_cast<const float *>(queries), *const k = reinterpret_cast<const float *>(tile);
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
};

template <class L>
struct HalfValues {
    static constexpr size_t cell_bytes(int64_t head_dim) { return static_cast<size_t>(head_dim) * sizeof(uint16_t); }
    // The largest |v| of a cell; infinity where one is not finite.
    static float largest(const char *cell, int64_t head_dim) {
        const uint16_t largest = L::largest_half(reinterpret_cast<const uint16_t *>(cell), head_dim);
        return largest < kHalfInfinity ? half_to_float(largest) : HUGE_VALF;
    }
    static constexpr size_t offset(int64_t at) { return cell_bytes(at); }
    // Elements at .. at + 15.
    static EI_FORCE_INLINE typename L::F load(const char *cell, int64_t at) {
        return L::load_half(reinterpret_cast<const uint16_t *>(cell) + at);
    }
};

}  // namespace
}  // namespace ei
#endif
