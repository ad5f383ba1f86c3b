// Sixteen lanes as two registers.
#ifndef EI_ATTENTION_LANES_AVX2_H
#define EI_ATTENTION_LANES_AVX2_H

#include <immintrin.h>

#include <cstdint>

#include "core/compiler.h"
#include "core/exponential.h"

namespace ei {
namespace {

struct Avx2Lanes {
    struct F {
        __m256 a, b;
    };
    // 6 x 2 registers of sums, 2 of keys or values and one of queries or weights: 15 of 16.
    static constexpr int kVectors = 1;

    static EI_FORCE_INLINE F set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static EI_FORCE_INLINE F load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
    static EI_FORCE_INLINE void store(float *to, F v) {
        _mm256_storeu_ps(to, v.a);
        _mm256_storeu_ps(to + 8, v.b);
    }
    static EI_FORCE_INLINE __m256 load_half_8(const uint16_t *from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))); }
    static EI_FORCE_INLINE F load_half(const uint16_t *from) { return {load_half_8(from), load_half_8(from + 8)}; }
    static EI_FORCE_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
    static EI_FORCE_INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
    static EI_FORCE_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
    static EI_FORCE_INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
    static EI_FORCE_INLINE __m256 where_negative_8(__m256 x, __m256 yes, __m256 no) {
        return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
    }
    static EI_FORCE_INLINE F where_negative(F x, F yes, F no) {
        return {where_negative_8(x.a, yes.a, no.a), where_negative_8(x.b, yes.b, no.b)};
    }
    static EI_FORCE_INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
    static EI_FORCE_INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
    static EI_FORCE_INLINE __m256 masked_8(__m256 s, __m256 mask) {
        const __m256 low = _mm256_set1_ps(-HUGE_VALF);
        return _mm256_blendv_ps(s, low, _mm256_cmp_ps(mask, low, _CMP_EQ_OQ));
    }
    static EI_FORCE_INLINE F masked(F s, F mask) { return {masked_8(s.a, mask.a), masked_8(s.b, mask.b)}; }
    static EI_FORCE_INLINE __m256 where_nonzero_8(__m256 p, __m256 v) { return _mm256_and_ps(v, _mm256_cmp_ps(p, _mm256_setzero_ps(), _CMP_NEQ_UQ)); }
    static EI_FORCE_INLINE F where_nonzero(F p, F v) { return {where_nonzero_8(p.a, v.a), where_nonzero_8(p.b, v.b)}; }
    static EI_FORCE_INLINE __m256 or_unordered_8(__m256 bad, __m256 s) {
        return _mm256_or_ps(bad, _mm256_and_ps(_mm256_set1_ps(1.0f), _mm256_cmp_ps(s, s, _CMP_UNORD_Q)));
    }
    static EI_FORCE_INLINE F or_unordered(F bad, F s) { return {or_unordered_8(bad.a, s.a), or_unordered_8(bad.b, s.b)}; }
    static EI_FORCE_INLINE bool any(F v) {
        const __m256 zero = _mm256_setzero_ps();
        return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(v.a, zero, _CMP_NEQ_UQ), _mm256_cmp_ps(v.b, zero, _CMP_NEQ_UQ))) != 0;
    }
    static EI_FORCE_INLINE float reduce_max(F v) {
        const __m256 both = _mm256_max_ps(v.a, v.b);
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
    }
    static EI_FORCE_INLINE __m256 weight_8(__m256 x) {
        const __m256 keep = _mm256_cmp_ps(x, _mm256_set1_ps(kExpLowest), _CMP_GE_OQ);
        const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2Low), _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2High), x));
        __m256 p = _mm256_set1_ps(kExp[0]);
        EI_UNROLL
        for (int c = 1; c < 6; ++c) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp[c]));
        p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
        const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
        return _mm256_and_ps(keep, _mm256_castsi256_ps(_mm256_or_si256(scaled, _mm256_set1_epi32(1))));
    }
    static EI_FORCE_INLINE F weight(F x) { return {weight_8(x.a), weight_8(x.b)}; }
    static EI_FORCE_INLINE __m256i widened(__m256 v) {
        const __m256i i = _mm256_cvtps_epi32(v);
        return _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(i)), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(i, 1)));
    }
    using Sum = __m256i;
    static EI_FORCE_INLINE Sum no_integers() { return _mm256_setzero_si256(); }
    // They are not negative: even and odd lanes need no sign.
    static EI_FORCE_INLINE Sum add_integers(Sum sum, F v) {
        const __m256i low = _mm256_set1_epi64x(0xffffffff), a = _mm256_cvtps_epi32(v.a), b = _mm256_cvtps_epi32(v.b);
        const __m256i even = _mm256_add_epi64(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
        return _mm256_add_epi64(sum, _mm256_add_epi64(even, _mm256_add_epi64(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32))));
    }
    static EI_FORCE_INLINE int64_t total(Sum sum) {
        const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        return _mm_cvtsi128_si64(_mm_add_epi64(half, _mm_unpackhi_epi64(half, half)));
    }
    // Bit i: p[i] * v_max[i] >= least.
    static EI_FORCE_INLINE uint64_t reaches_64(const float *p, const float *v_max, float least) {
        uint64_t bits = 0;
        EI_UNROLL
        for (int i = 0; i < 64; i += 8) {
            const __m256 product = _mm256_mul_ps(_mm256_loadu_ps(p + i), _mm256_loadu_ps(v_max + i));
            const int reached = _mm256_movemask_ps(_mm256_cmp_ps(product, _mm256_set1_ps(least), _CMP_GE_OQ));
            bits |= static_cast<uint64_t>(static_cast<uint32_t>(reached)) << i;
        }
        return bits;
    }
    static EI_FORCE_INLINE uint64_t differs_64(const uint16_t *from, uint16_t value) {
        const __m256i v = _mm256_set1_epi16(static_cast<int16_t>(value));
        uint64_t equal = 0;
        EI_UNROLL
        for (int i = 0; i < 64; i += 32) {
            const __m256i a = _mm256_cmpeq_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i)), v);
            const __m256i b = _mm256_cmpeq_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + i + 16)), v);
            const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8);
            equal |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(bytes))} << i;
        }
        return ~equal;
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
    // load(i): 8 elements of cell i.
    template <class Load>
    static EI_FORCE_INLINE void transpose_8(Load load, float *to, int64_t stride) {
        __m256 r[8], t[8];
        EI_UNROLL
        for (int i = 0; i < 8; ++i) r[i] = load(i);
        EI_UNROLL
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        EI_UNROLL
        for (int i = 0; i < 8; i += 4) {
            r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
            r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
            r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
            r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
        }
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            _mm256_storeu_ps(to + j * stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
            _mm256_storeu_ps(to + (4 + j) * stride, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
        }
    }
    static EI_FORCE_INLINE void transpose_half(const char *const *cells, int64_t at, float *to, int64_t stride) {
        for (int d = 0; d < 16; d += 8) {
            for (int c = 0; c < 16; c += 8) {
                const auto load = [&](int i) { return load_half_8(reinterpret_cast<const uint16_t *>(cells[c + i]) + at + d); };
                transpose_8(load, to + d * stride + c, stride);
            }
        }
    }
};

}  // namespace
}  // namespace ei
#endif
