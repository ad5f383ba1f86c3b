// Products of F32, F16 and BF16 with 256 bits: two registers hold one k of 16 rows. A tile is 16 rows x T columns, T = 1 .. 4: 2 T sums of
// 16 elements stay in registers; the results, touched once in 16 elements, may not.
#ifndef EI_MATMUL_FLOATS_AVX2_H
#define EI_MATMUL_FLOATS_AVX2_H

#include "matmul/avx256.h"

namespace ei {
namespace {

// s += w x for one k. Weights: Body and widen(body, half), the values of 8 rows as floats.
template <class Weights, int T>
EI_INLINE void add_products(const typename Weights::Body &body, const ActivationFloat32 &a, int first, int64_t k, __m256 (&s)[2][T]) {
    const __m256 w0 = Weights::widen(body, 0), w1 = Weights::widen(body, 1);
    EI_UNROLL
    for (int c = 0; c < T; ++c) {
        const __m256 x = _mm256_set1_ps(a.x[first + c][k]);
        s[0][c] = _mm256_fmadd_ps(w0, x, s[0][c]);
        s[1][c] = _mm256_fmadd_ps(w1, x, s[1][c]);
    }
}

template <int T>
EI_INLINE void add_sums(const __m256 (&s)[2][T], __m256 (&y)[2][T]) {
    EI_UNROLL
    for (int c = 0; c < T; ++c) {
        y[0][c] = _mm256_add_ps(y[0][c], s[0][c]);
        y[1][c] = _mm256_add_ps(y[1][c], s[1][c]);
    }
}

template <class Weights, int T>
void tile_floats(const MatmulArgs &args, int first) {
    using Body = typename Weights::Body;
    const Body *body = reinterpret_cast<const Body *>(args.panel);
    const ActivationFloat32 *a = reinterpret_cast<const ActivationFloat32 *>(args.activations);
    Prefetch ahead(args.panel);
    __m256 y[2][T], s[2][T];
    clear<T>(y);
    int64_t left = args.n_blocks;
    for (; left >= kFloatsPerBlock; left -= kFloatsPerBlock, body += kFloatsPerBlock, ++a) {
        ahead.next<kFloatsPerBlock * sizeof(Body)>();
        clear<T>(s);
        EI_UNROLL
        for (int k = 0; k < kFloatsPerBlock; ++k) add_products<Weights, T>(body[k], *a, first, k, s);
        add_sums<T>(s, y);
    }
    if (left > 0) {
        clear<T>(s);
        EI_ROLLED
        for (int64_t k = 0; k < left; ++k) add_products<Weights, T>(body[k], *a, first, k, s);
        add_sums<T>(s, y);
    }
    store<T>(args, first, y);
}

template <class Weights>
void matmul_floats(const MatmulArgs &args) {
    static constexpr Tile kTiles[] = {tile_floats<Weights, 1>, tile_floats<Weights, 2>, tile_floats<Weights, 3>, tile_floats<Weights, 4>};
    run_tiles(args, kTiles);
}

}  // namespace
}  // namespace ei
#endif
