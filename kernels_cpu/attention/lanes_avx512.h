// Sixteen lanes as one register.
#ifndef EI_ATTENTION_LANES_AVX512_H
#define EI_ATTENTION_LANES_AVX512_H

#include <immintrin.h>

#include <cstdint>

#include "core/compiler.h"
#include "core/exponential.h"

namespace ei {
namespace {

struct Avx512Lanes {
    using F = __m512;
    // 6 x 4 sums, 4 registers of keys or values and one of queries or weights: 29 of 32.
    static constexpr int kVectors = 4;

    static EI_FORCE_INLINE F set(float value) { return _mm512_set1_ps(value); }
    static EI_FORCE_INLINE F load(const float *from) { return _mm512_loadu_ps(from); }
    static EI_FORCE_INLINE void store(float *to, F v) { _mm512_storeu_ps(to, v); }
    static EI_FORCE_INLINE F load_half(const uint16_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))); }
    static EI_FORCE_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
    static EI_FORCE_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static EI_FORCE_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static EI_FORCE_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
    static EI_FORCE_INLINE F where_negative(F x, F yes, F no) { return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, set(0.0f), _CMP_LT_OQ), yes); }
    static EI_FORCE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static EI_FORCE_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
    static EI_FORCE_INLINE F masked(F s, F mask) {
        const F low = set(-HUGE_VALF);
        return _mm512_mask_mov_ps(s, _mm512_cmp_ps_mask(mask, low, _CMP_EQ_OQ), low);
    }
    static EI_FORCE_INLINE F where_nonzero(F p, F v) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(p, set(0.0f), _CMP_NEQ_UQ), v); }
    static EI_FORCE_INLINE F or_unordered(F bad, F s) { return _mm512_mask_mov_ps(bad, _mm512_cmp_ps_mask(s, s, _CMP_UNORD_Q), set(1.0f)); }
    static EI_FORCE_INLINE bool any(F v) { return _mm512_cmp_ps_mask(v, set(0.0f), _CMP_NEQ_UQ) != 0; }
    static EI_FORCE_INLINE float reduce_max(F v) { return _mm512_reduce_max_ps(v); }
    static EI_FORCE_INLINE F weight(F x) {
        const __mmask16 keep = _mm512_cmp_ps_mask(x, set(kExpLowest), _CMP_GE_OQ);
        const F n = _mm512_roundscale_ps(mul(x, set(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const F r = fma(n, set(-kLn2Low), fma(n, set(-kLn2High), x));
        F p = set(kExp[0]);
        EI_UNROLL
        for (int c = 1; c < 6; ++c) p = fma(p, r, set(kExp[c]));
        p = fma(p, mul(r, r), add(r, set(1.0f)));
        const __m512i scaled = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
        return _mm512_castsi512_ps(_mm512_maskz_or_epi32(keep, scaled, _mm512_set1_epi32(1)));
    }
    using Sum = __m512i;
    static EI_FORCE_INLINE Sum no_integers() { return _mm512_setzero_si512(); }
    // They are not negative: even and odd lanes need no sign.
    static EI_FORCE_INLINE Sum add_integers(Sum sum, F v) {
        const __m512i i = _mm512_cvtps_epi32(v);
        const __m512i even = _mm512_and_si512(i, _mm512_set1_epi64(0xffffffff)), odd = _mm512_srli_epi64(i, 32);
        return _mm512_add_epi64(sum, _mm512_add_epi64(even, odd));
    }
    static EI_FORCE_INLINE int64_t total(Sum sum) { return _mm512_reduce_add_epi64(sum); }
    // Bit i: p[i] * v_max[i] >= least.
    static EI_FORCE_INLINE uint64_t reaches_64(const float *p, const float *v_max, float least) {
        uint64_t bits = 0;
        EI_UNROLL
        for (int i = 0; i < 64; i += 16) {
            const F product = mul(load(p + i), load(v_max + i));
            bits |= uint64_t{_mm512_cmp_ps_mask(product, set(least), _CMP_GE_OQ)} << i;
        }
        return bits;
    }
    static EI_FORCE_INLINE uint64_t differs_64(const uint16_t *from, uint16_t value) {
        const __m512i v = _mm512_set1_epi16(static_cast<int16_t>(value));
        const uint64_t low = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(from), v);
        return low | uint64_t{_mm512_cmpneq_epi16_mask(_mm512_loadu_si512(from + 32), v)} << 32;
    }
    static EI_FORCE_INLINE uint16_t largest_half(const uint16_t *from, int64_t n) {
        __m256i best = _mm256_setzero_si256();
        for (int64_t i = 0; i < n; i += 16) {
            const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i));
            best = _mm256_max_epu16(best, _mm256_and_si256(v, _mm256_set1_epi16(0x7fff)));
        }
        // The horizontal minimum is one instruction, so ask for that of the complement.
        const __m128i half = _mm_max_epu16(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1));
        return static_cast<uint16_t>(~_mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(-1))), 0));
    }
    static EI_FORCE_INLINE void transpose_half(const char *const *cells, int64_t at, float *to, int64_t stride) {
        F r[16], t[16];
        EI_UNROLL
        for (int i = 0; i < 16; ++i) r[i] = load_half(reinterpret_cast<const uint16_t *>(cells[i]) + at);
        EI_UNROLL
        for (int i = 0; i < 16; i += 2) {
            t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
        }
        EI_UNROLL
        for (int i = 0; i < 16; i += 4) {
            EI_UNROLL
            for (int j = 0; j < 2; ++j) {
                const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
                r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        // r[4 b + j], quarter q: element 4 q + j of cells 4 b .. 4 b + 3.
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            const F a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x88);
            const F c = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xdd), d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xdd);
            store(to + j * stride, _mm512_shuffle_f32x4(a, b, 0x88));
            store(to + (4 + j) * stride, _mm512_shuffle_f32x4(c, d, 0x88));
            store(to + (8 + j) * stride, _mm512_shuffle_f32x4(a, b, 0xdd));
            store(to + (12 + j) * stride, _mm512_shuffle_f32x4(c, d, 0xdd));
        }
    }
};

}  // namespace
}  // namespace ei
#endif
