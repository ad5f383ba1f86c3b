#include "matmul/avx512vnni.h"

namespace ei {
namespace {

// 6 bits: the low four are nibbles, the upper two of all 4 groups share a byte of qh. Shifts move them to bits 4 and 5.
EI_INLINE void unpack(const BodyQ6_K &body, int s, __m512i (&w)[4]) {
    const __m512i l0 = load(body.ql[s][0]), l1 = load(body.ql[s][1]), h = load(body.qh[s]), top = _mm512_set1_epi8(0x30);
    w[0] = or_and(low_nibbles(l0), _mm512_slli_epi16(h, 4), top);
    w[1] = or_and(high_nibbles(l0), _mm512_slli_epi16(h, 2), top);
    w[2] = or_and(low_nibbles(l1), h, top);
    w[3] = or_and(high_nibbles(l1), _mm512_srli_epi16(h, 2), top);
}

// |I| <= 16 * 128 * 16 * 32 * 127 < 2^27.
template <int T>
void tile(const MatmulArgs &args) {
    const BodyQ6_K *body = reinterpret_cast<const BodyQ6_K *>(args.panel);
    const ActivationZero256 *a = reinterpret_cast<const ActivationZero256 *>(args.activations);
    Prefetch ahead(args.panel);
    __m512 y[T];
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[c] = _mm512_setzero_ps();
    for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
        const int64_t n = left < kRunBlocks ? left : kRunBlocks;
        const TailScale *tail = reinterpret_cast<const TailScale *>(body + n);
        for (int64_t b = 0; b < n; ++b, ++body, ++tail, ++a) {
            ahead.template next<256 + sizeof(TailScale)>();
            __m512i total[T];
            EI_UNROLL
            for (int c = 0; c < T; ++c) total[c] = _mm512_setzero_si512();
            EI_ROLLED
            for (int s = 0; s < 16; ++s) {
                ahead.template next<192>();
                __m512i w[4], sum[T];
                unpack(*body, s, w);
                EI_UNROLL
                for (int c = 0; c < T; ++c) sum[c] = _mm512_set1_epi32(a->offset[s][c]);
                EI_UNROLL
                for (int g = 0; g < 4; ++g) {
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], w[g], broadcast(a->q[4 * s + g][c]));
                }
                const __m512i scale = _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i *>(body->scale[s])));
                EI_UNROLL
                for (int c = 0; c < T; ++c) total[c] = _mm512_add_epi32(total[c], _mm512_mullo_epi32(sum[c], scale));
            }
            const __m512 d = load_half(tail->d);
            EI_UNROLL
            for (int c = 0; c < T; ++c) y[c] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(a->d[c])), _mm512_cvtepi32_ps(total[c]), y[c]);
        }
        body = reinterpret_cast<const BodyQ6_K *>(tail);
    }
    store<T>(args, y);
}

void matmul(const MatmulArgs &args) {
    static constexpr Matmul kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>};
    kTiles[args.n_columns - 1](args);
}

}  // namespace

extern const Kernel ei_kernel_matmul_q6_k_avx512vnni;
const Kernel ei_kernel_matmul_q6_k_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q6_K, matmul);

}  // namespace ei
