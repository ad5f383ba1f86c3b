// Products with USMMLA: 2 rows x 8 k times 2 columns x 8 k, twice the work of a dot product. Two groups interleaved are 8 k of 2 rows or of
// 2 columns: one ZIP a register, of weights and of activations alike. A single column uses USDOT. Weights are unsigned, as stored.
#ifndef EI_MATMUL_NEON_I8MM_H
#define EI_MATMUL_NEON_I8MM_H

#include "matmul/neon_tiles.h"

namespace ei {
namespace {

EI_INLINE uint8x16_t zip_low(uint8x16_t a, uint8x16_t b) {
    return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
EI_INLINE uint8x16_t zip_high(uint8x16_t a, uint8x16_t b) {
    return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}

template <int T>
struct MatrixSums {
    static constexpr int kPairs = (T + 1) / 2;  // of columns; an odd one has a neighbour whose sums are never looked at
    int32x4_t s[4][kPairs];                     // rows 2i, 2i + 1: row 2i of both columns, then row 2i + 1

    EI_FORCE_INLINE void start() {
        EI_UNROLL
        for (int p = 0; p < kPairs; ++p) s[0][p] = s[1][p] = s[2][p] = s[3][p] = vdupq_n_s32(0);
    }
    EI_FORCE_INLINE void start(const int32_t *offset) {
        EI_UNROLL
        for (int p = 0; p < kPairs; ++p) {
            const int32x2_t both = vld1_s32(offset + 2 * p);
            s[0][p] = s[1][p] = s[2][p] = s[3][p] = vcombine_s32(both, both);
        }
    }
    EI_FORCE_INLINE void add(int, const Pair &w, const int8_t (*q)[kGroupColumns][4], int first) {
        uint8x16_t a[4];
        EI_UNROLL
        for (int four = 0; four < (T + 3) / 4; ++four) {
            const uint8x16_t even = vreinterpretq_u8_s8(vld1q_s8(columns(q, first + 4 * four)));
            const uint8x16_t odd = vreinterpretq_u8_s8(vld1q_s8(columns(q + 1, first + 4 * four)));
            a[2 * four] = zip_low(even, odd);
            a[2 * four + 1] = zip_high(even, odd);
        }
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint8x16_t v = i % 2 ? zip_high(w[0][i / 2], w[1][i / 2]) : zip_low(w[0][i / 2], w[1][i / 2]);
            EI_UNROLL
            for (int p = 0; p < kPairs; ++p) s[i][p] = vusmmlaq_s32(s[i][p], v, vreinterpretq_s8_u8(a[p]));
        }
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c) const {
        const int32x4_t a = s[2 * r][c / 2], b = s[2 * r + 1][c / 2];
        return c % 2 ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b);
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c, const int32_t *) const { return rows(r, c); }
};

template <>
struct MatrixSums<1> {
    int32x4_t s[2];

    EI_FORCE_INLINE void start() { s[0] = s[1] = vdupq_n_s32(0); }
    EI_FORCE_INLINE void start(const int32_t *offset) { s[0] = s[1] = vld1q_dup_s32(offset); }
    EI_FORCE_INLINE void add(int, const Pair &w, const int8_t (*q)[kGroupColumns][4], int first) {
        EI_UNROLL
        for (int g = 0; g < 2; ++g) {
            const int8x16_t a = vld1q_s8(columns(q + g, first));
            s[0] = vusdotq_laneq_s32(s[0], w[g][0], a, 0);
            s[1] = vusdotq_laneq_s32(s[1], w[g][1], a, 0);
        }
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int) const { return s[r]; }
    EI_FORCE_INLINE int32x4_t rows(int r, int, const int32_t *) const { return s[r]; }
};

struct I8mm {
    static constexpr int kColumns = 8;
    template <class Weights, int T>
    using Sums = MatrixSums<T>;
};

}  // namespace
}  // namespace ei
#endif
