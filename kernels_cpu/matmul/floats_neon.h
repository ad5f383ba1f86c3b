// Products of F32, F16 and BF16: four registers hold one k of 16 rows. A tile is 16 rows x T columns, T = 1 .. 4: 4 T sums of 16 elements,
// 4 weights and T registers of 4 activations, taken by lane; the results, touched once in 16 elements, may lie in memory.
#ifndef EI_MATMUL_FLOATS_NEON_H
#define EI_MATMUL_FLOATS_NEON_H

#include "matmul/neon_tiles.h"

namespace ei {
namespace {

// s + w * x[lane]; `lane` is a constant once loops are unrolled.
EI_INLINE float32x4_t fma_lane(float32x4_t s, float32x4_t w, float32x4_t x, int lane) {
    switch (lane) {
        case 0: return vfmaq_laneq_f32(s, w, x, 0);
        case 1: return vfmaq_laneq_f32(s, w, x, 1);
        case 2: return vfmaq_laneq_f32(s, w, x, 2);
        default: return vfmaq_laneq_f32(s, w, x, 3);
    }
}

// Weights: Body and widen(body, i), the values of rows 4i .. 4i + 3 as floats.
template <class Weights>
struct Floats {
    using Body = typename Weights::Body;
    static constexpr int kColumns = 4;

    // s += w x for one k, which is in lane `lane` of each column's x.
    template <int T>
    static EI_FORCE_INLINE void add_products(const Body &body, const float32x4_t (&x)[T], int lane, float32x4_t (&s)[2][2][T]) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float32x4_t w = Weights::widen(body, i);
            EI_UNROLL
            for (int c = 0; c < T; ++c) s[i / 2][i % 2][c] = fma_lane(s[i / 2][i % 2][c], w, x[c], lane);
        }
    }

    template <int T>
    static EI_FORCE_INLINE void add_sums(const float32x4_t (&s)[2][2][T], float32x4_t (&y)[2][2][T]) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            EI_UNROLL
            for (int c = 0; c < T; ++c) y[i / 2][i % 2][c] = vaddq_f32(y[i / 2][i % 2][c], s[i / 2][i % 2][c]);
        }
    }

    template <int T>
    static void tile(const MatmulArgs &args, int first) {
        const Body *body = reinterpret_cast<const Body *>(args.panel);
        const ActivationFloat32 *a = reinterpret_cast<const ActivationFloat32 *>(args.activations);
        float32x4_t y[2][2][T], s[2][2][T], x[T];
        clear<T>(y);
        int64_t left = args.n_blocks;
        for (; left >= kFloatsPerBlock; left -= kFloatsPerBlock, body += kFloatsPerBlock, ++a) {
            clear<T>(s);
            EI_UNROLL
            for (int k = 0; k < kFloatsPerBlock; ++k) {
                if (k % 4 == 0) {
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) x[c] = vld1q_f32(a->x[first + c] + k);
                }
                add_products<T>(body[k], x, k % 4, s);
            }
            add_sums<T>(s, y);
        }
        if (left > 0) {
            clear<T>(s);
            EI_ROLLED
            for (int64_t k = 0; k < left; ++k) {
                EI_UNROLL
                for (int c = 0; c < T; ++c) x[c] = vld1q_dup_f32(a->x[first + c] + k);
                add_products<T>(body[k], x, 0, s);
            }
            add_sums<T>(s, y);
        }
        store<T>(args, first, y);
    }
};

}  // namespace
}  // namespace ei
#endif
