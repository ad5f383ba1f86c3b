// Products with SDOT: each 32-bit lane is one row, and the 4 activations it is multiplied with are picked from a register of 4 columns by
// lane, so nothing is ever broadcast. 8 rows x 8 columns are 16 sums; two registers of weights, two of activations.
#ifndef EI_MATMUL_NEON_DOTPROD_H
#define EI_MATMUL_NEON_DOTPROD_H

#include "matmul/neon_tiles.h"

namespace ei {
namespace {

// `lane` is a constant once loops are unrolled.
EI_INLINE int32x4_t dot_lane(int32x4_t sum, uint8x16_t w, int8x16_t a, int lane) {
    const int8x16_t v = vreinterpretq_s8_u8(w);
    switch (lane) {
        case 0: return vdotq_laneq_s32(sum, v, a, 0);
        case 1: return vdotq_laneq_s32(sum, v, a, 1);
        case 2: return vdotq_laneq_s32(sum, v, a, 2);
        default: return vdotq_laneq_s32(sum, v, a, 3);
    }
}

template <int T>
struct DotSums {
    int32x4_t s[2][T];

    EI_FORCE_INLINE void start() {
        EI_UNROLL
        for (int c = 0; c < T; ++c) s[0][c] = s[1][c] = vdupq_n_s32(0);
    }
    EI_FORCE_INLINE void start(const int32_t *offset) {
        EI_UNROLL
        for (int c = 0; c < T; ++c) s[0][c] = s[1][c] = vld1q_dup_s32(offset + c);
    }
    EI_FORCE_INLINE void add(int, const Pair &w, const int8_t (*q)[kGroupColumns][4], int first) {
        EI_UNROLL
        for (int g = 0; g < 2; ++g) {
            const int8x16_t a = vld1q_s8(columns(q + g, first)), b = T > 4 ? vld1q_s8(columns(q + g, first + 4)) : a;
            EI_UNROLL
            for (int c = 0; c < T; ++c) {
                EI_UNROLL
                for (int r = 0; r < 2; ++r) s[r][c] = dot_lane(s[r][c], w[g][r], c < 4 ? a : b, c % 4);
            }
        }
    }
    EI_FORCE_INLINE int32x4_t rows(int r, int c) const { return s[r][c]; }
    EI_FORCE_INLINE int32x4_t rows(int r, int c, const int32_t *) const { return s[r][c]; }
};

struct Dotprod {
    static constexpr int kColumns = 8;
    template <class Weights, int T>
    using Sums = DotSums<T>;
};

}  // namespace
}  // namespace ei
#endif
