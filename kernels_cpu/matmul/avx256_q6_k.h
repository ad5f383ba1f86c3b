// Q6_K with 256 bits. `Multiply` is what AVX2 and AVX-VNNI do differently: scale_of(8 lanes of 32 bits), and
// scaled_dot(w, q, c, scale) = scale * sum(q * a) of 16 elements of 8 rows with column c.
#ifndef EI_MATMUL_AVX256_Q6_K_H
#define EI_MATMUL_AVX256_Q6_K_H

#include "matmul/avx256.h"

namespace ei {
namespace {

// 6 bits: the low four are nibbles, the upper two of all 4 groups share a byte of qh. Shifts move them to bits 4 and 5.
EI_INLINE void unpack_six_bits(const BodyQ6_K &body, int s, int half, __m256i (&w)[4]) {
    const __m256i l0 = load(body.ql[s][0] + 32 * half), l1 = load(body.ql[s][1] + 32 * half), h = load(body.qh[s] + 32 * half);
    const __m256i top = _mm256_set1_epi8(0x30);
    w[0] = or_and(low_nibbles(l0), _mm256_slli_epi16(h, 4), top);
    w[1] = or_and(high_nibbles(l0), _mm256_slli_epi16(h, 2), top);
    w[2] = or_and(low_nibbles(l1), h, top);
    w[3] = or_and(high_nibbles(l1), _mm256_srli_epi16(h, 2), top);
}

// The zero point comes once a block: -32 * sum of scale * sum(a).
template <class Multiply, int T>
void tile_zero256(const MatmulArgs &args, int first) {
    const BodyQ6_K *body = reinterpret_cast<const BodyQ6_K *>(args.panel);
    const ActivationZero256 *a = reinterpret_cast<const ActivationZero256 *>(args.activations);
    Prefetch ahead(args.panel);
    __m256 y[2][T];
    clear<T>(y);
    for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
        const int64_t n = left < kRunBlocks ? left : kRunBlocks;
        const TailScale *tail = reinterpret_cast<const TailScale *>(body + n);
        for (int64_t b = 0; b < n; ++b, ++body, ++tail, ++a) {
            ahead.next<sizeof(body->scale) + sizeof(TailScale)>();
            EI_ROLLED
            for (int half = 0; half < 2; ++half) {
                __m256i total[T];
                EI_UNROLL
                for (int c = 0; c < T; ++c) total[c] = _mm256_setzero_si256();
                EI_UNROLL
                for (int p = 0; p < 8; ++p) {
                    const __m128i even = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(body->scale[2 * p] + 8 * half));
                    const __m128i odd = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(body->scale[2 * p + 1] + 8 * half));
                    const __m256i scales = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd));
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        total[c] = _mm256_sub_epi32(total[c], _mm256_madd_epi16(scales, _mm256_set1_epi32(a->pair[p][first + c])));
                    }
                }
                EI_UNROLL
                for (int c = 0; c < T; ++c) total[c] = _mm256_slli_epi32(total[c], 5);
                EI_ROLLED
                for (int s = 0; s < 16; ++s) {
                    ahead.next<(sizeof(BodyQ6_K) - sizeof(body->scale)) / 32>();
                    __m256i w[4];
                    unpack_six_bits(*body, s, half, w);
                    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(body->scale[s] + 8 * half));
                    const __m256i scale = Multiply::scale_of(_mm256_cvtepi8_epi32(bytes));
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        total[c] = _mm256_add_epi32(total[c], Multiply::scaled_dot(w, a->q + 4 * s, first + c, scale));
                    }
                }
                const __m256 d = load_half(tail->d + 8 * half);
                EI_UNROLL
                for (int c = 0; c < T; ++c) {
                    const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps(a->d[first + c]));
                    y[half][c] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(total[c]), y[half][c]);
                }
            }
        }
        body = reinterpret_cast<const BodyQ6_K *>(tail);
    }
    store<T>(args, first, y);
}

template <class Multiply>
void matmul_zero256(const MatmulArgs &args) {
    static constexpr Tile kTiles[] = {tile_zero256<Multiply, 1>, tile_zero256<Multiply, 2>, tile_zero256<Multiply, 3>,
                                      tile_zero256<Multiply, 4>};
    run_tiles(args, kTiles);
}

}  // namespace
}  // namespace ei
#endif
