// Products of F32, F16 and BF16 with 512 bits: a register holds one k of 16 rows. A tile is 16 rows x T columns, T = 1 .. 8: T sums of 16
// elements and T results stay in registers; the activations come as broadcasts from memory.
#ifndef EI_MATMUL_FLOATS_AVX512VNNI_H
#define EI_MATMUL_FLOATS_AVX512VNNI_H

#include "matmul/avx512vnni.h"

namespace ei {
namespace {

// Weights: Body and widen(body), the values of 16 rows as floats.
template <class Weights, int T>
void tile_floats(const MatmulArgs &args) {
    using Body = typename Weights::Body;
    const Body *body = reinterpret_cast<const Body *>(args.panel);
    const ActivationFloat32 *a = reinterpret_cast<const ActivationFloat32 *>(args.activations);
    Prefetch ahead(args.panel);
    __m512 y[T], s[T];
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[c] = _mm512_setzero_ps();
    int64_t left = args.n_blocks;
    for (; left >= kFloatsPerBlock; left -= kFloatsPerBlock, body += kFloatsPerBlock, ++a) {
        ahead.template next<kFloatsPerBlock * sizeof(Body)>();
        EI_UNROLL
        for (int c = 0; c < T; ++c) s[c] = _mm512_setzero_ps();
        EI_UNROLL
        for (int k = 0; k < kFloatsPerBlock; ++k) {
            const __m512 w = Weights::widen(body[k]);
            EI_UNROLL
            for (int c = 0; c < T; ++c) s[c] = _mm512_fmadd_ps(w, _mm512_set1_ps(a->x[c][k]), s[c]);
        }
        EI_UNROLL
        for (int c = 0; c < T; ++c) y[c] = _mm512_add_ps(y[c], s[c]);
    }
    if (left > 0) {
        EI_UNROLL
        for (int c = 0; c < T; ++c) s[c] = _mm512_setzero_ps();
        EI_ROLLED
        for (int64_t k = 0; k < left; ++k) {
            const __m512 w = Weights::widen(body[k]);
            EI_UNROLL
            for (int c = 0; c < T; ++c) s[c] = _mm512_fmadd_ps(w, _mm512_set1_ps(a->x[c][k]), s[c]);
        }
        EI_UNROLL
        for (int c = 0; c < T; ++c) y[c] = _mm512_add_ps(y[c], s[c]);
    }
    store<T>(args, y);
}

template <class Weights>
void matmul_floats(const MatmulArgs &args) {
    static constexpr Matmul kTiles[] = {tile_floats<Weights, 1>, tile_floats<Weights, 2>, tile_floats<Weights, 3>, tile_floats<Weights, 4>,
                                        tile_floats<Weights, 5>, tile_floats<Weights, 6>, tile_floats<Weights, 7>, tile_floats<Weights, 8>};
    kTiles[args.n_columns - 1](args);
}

}  // namespace
}  // namespace ei
#endif
