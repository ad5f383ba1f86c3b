// Products of F32, F16 and BF16 for ARMv8.0: four registers hold one k of 16 rows. A tile is 16 rows x T columns, T = 1 .. 4: 4 T sums of
// 16 elements stay in registers; the results, touched once in 16 elements, may not.
#ifndef EI_MATMUL_FLOATS_NEON_H
#define EI_MATMUL_FLOATS_NEON_H

#include "matmul/neon_tiles.h"

namespace ei {
namespace {

// Weights: Body and widen(body, i), the values of rows 4i .. 4i + 3 as floats.
template <class Weights>
struct Floats {
    static constexpr int kColumns = 4;

    template <int T>
    static EI_FORCE_INLINE void add_products(const typename Weights::Body &body, const ActivationFloat32 &a, int first, int64_t k,
                                             float32x4_t (&s)[2][2][T]) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float32x4_t w = Weights::widen(body, i);
            EI_UNROLL
            for (int c = 0; c < T; ++c) s[i / 2][i % 2][c] = vfmaq_n_f32(s[i / 2][i % 2][c], w, a.x[first + c][k]);
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
        using Body = typename Weights::Body;
        const Body *body = reinterpret_cast<const Body *>(args.panel);
        const ActivationFloat32 *a = reinterpret_cast<const ActivationFloat32 *>(args.activations);
        float32x4_t y[2][2][T], s[2][2][T];
        clear<T>(y);
        int64_t left = args.n_blocks;
        for (; left >= kFloatsPerBlock; left -= kFloatsPerBlock, body += kFloatsPerBlock, ++a) {
            clear<T>(s);
            EI_UNROLL
            for (int k = 0; k < kFloatsPerBlock; ++k) add_products<T>(body[k], *a, first, k, s);
            add_sums<T>(s, y);
        }
        if (left > 0) {
            clear<T>(s);
            EI_ROLLED
            for (int64_t k = 0; k < left; ++k) add_products<T>(body[k], *a, first, k, s);
            add_sums<T>(s, y);
        }
        store<T>(args, first, y);
    }
};

}  // namespace
}  // namespace ei
#endif
