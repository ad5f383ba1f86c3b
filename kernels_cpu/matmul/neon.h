// Products of ARMv8.0: SMULL and SMLAL make and add 8 products of 16 bits. Where the weights are small enough all of a block is summed in
// 16 bits, and widened once; signed bytes (2 * 128 * 127 fits, no more) are widened after every two groups.
//
// A register of 16-bit sums is 2 rows x 4 k: 4 rows take two of them, and adding neighbours twice leaves one lane a row. 8 rows x 4
// columns are 16 registers of sums.
#ifndef EI_MATMUL_NEON_H
#define EI_MATMUL_NEON_H

#include "matmul/neon_tiles.h"

namespace ei {
namespace {

// The 4 activations of one column and group, twice.
EI_INLINE int8x8_t broadcast(const int8_t *four) {
    return vreinterpret_s8_s32(vld1_dup_s32(reinterpret_cast<const int32_t *>(four)));
}

EI_INLINE int8x8_t half_of(uint8x16_t w, int i) {
    const int8x16_t v = vreinterpretq_s8_u8(w);
    return i ? vget_high_s8(v) : vget_low_s8(v);
}

template <class Weights, int T>
struct ShortSums {
    static_assert(Weights::kGroups * Weights::kMax * 127 < 1 << 15, "a block's sums do not fit 16 bits");
    static constexpr bool kAddShort = 2 * Weights::kGroups * Weights::kMax * 127 < 1 << 15;
    int16x8_t s[4][T];  // rows 2i, 2i + 1

    EI_FORCE_INLINE void start() {}
    EI_FORCE_INLINE void start(const int32_t *) {}
    EI_FORCE_INLINE void add(int j, const Pair &w, const int8_t (*q)[kGroupColumns][4], int first) {
        EI_UNROLL
        for (int g = 0; g < 2; ++g) {
            EI_UNROLL
            for (int c = 0; c < T; ++c) {
                const int8x8_t a = broadcast(columns(q + g, first + c));
                EI_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int8x8_t v = half_of(w[g][i / 2], i % 2);
                    s[i][c] = j == 0 && g == 0 ? vmull_s8(v, a) : vmlal_s8(s[i][c], v, a);
                }
            }
        }
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c) const {
        const int16x8_t a = s[2 * r][c], b = s[2 * r + 1][c];
        return kAddShort ? vpaddlq_s16(vpaddq_s16(a, b)) : vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b));
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c, const int32_t *offset) const { return vaddq_s32(rows(r, c), vld1q_dup_s32(offset + c)); }
};

template <class Weights, int T>
struct LongSums {
    static_assert(2 * Weights::kMax * 127 < 1 << 15, "two products do not fit 16 bits");
    int32x4_t s[4][T];  // rows 2i, 2i + 1: two lanes each

    EI_FORCE_INLINE void start() {}
    EI_FORCE_INLINE void add(int j, const Pair &w, const int8_t (*q)[kGroupColumns][4], int first) {
        EI_UNROLL
        for (int c = 0; c < T; ++c) {
            const int8x8_t a = broadcast(columns(q, first + c)), b = broadcast(columns(q + 1, first + c));
            EI_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int16x8_t sum = vmlal_s8(vmull_s8(half_of(w[0][i / 2], i % 2), a), half_of(w[1][i / 2], i % 2), b);
                s[i][c] = j == 0 ? vpaddlq_s16(sum) : vpadalq_s16(s[i][c], sum);
            }
        }
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c) const { return vpaddq_s32(s[2 * r][c], s[2 * r + 1][c]); }
};

struct Neon {
    static constexpr int kColumns = 4;
    template <class Weights, int T>
    using Sums = std::conditional_t<(Weights::kMax > 63), LongSums<Weights, T>, ShortSums<Weights, T>>;
};

}  // namespace
}  // namespace ei
#endif
