#include <immintrin.h>

#include "quantize/blocks.h"

namespace ei {
namespace {

// Sums of four neighbours of 64 elements: VPDPBUSD with ones.
EI_INLINE __m512i sums_of_four(const int8_t *q) {
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(q));
}

// Sums of 16 neighbours of 256 elements: 4 lanes of each of 4 registers, by two rounds of transposing and adding.
EI_INLINE void sums_of_sixteen(const int8_t *q, int32_t (&sums)[16]) {
    const __m512i a = sums_of_four(q), b = sums_of_four(q + 64), c = sums_of_four(q + 128), d = sums_of_four(q + 192);
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Quarter i of `all`: sums of sub-block i of a, b, c and d.
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(sums, _mm512_permutexvar_epi32(order, all));
}

EI_INLINE void sums_of_sixteen(const int8_t *q, int32_t (&sums)[2]) {
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(q));
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), all);
    const __m256i eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    const __m256i sixteens = _mm256_add_epi32(eights, _mm256_shuffle_epi32(eights, 0xb1));
    sums[0] = _mm256_cvtsi256_si32(sixteens);
    sums[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(sixteens, 1));
}

struct Column {
    template <int kN>
    static EI_FORCE_INLINE float quantize(const float *x, int8_t *q, int32_t (&sums)[kN / 16]) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        __m512 v[kN / 16];
        __m512i largest = _mm512_setzero_si512();
        EI_UNROLL
        for (int i = 0; i < kN / 16; ++i) {
            v[i] = _mm512_loadu_ps(x + 16 * i);
            largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
        }
        const Scale scale = scale_of(static_cast<uint32_t>(_mm512_reduce_max_epi32(largest)));
        const __mmask16 keep = scale.inverse != 0.0f ? 0xffff : 0;  // infinity times 0 is not 0
        EI_UNROLL
        for (int i = 0; i < kN / 16; ++i) {
            const __m512i words = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v[i], _mm512_set1_ps(scale.inverse)));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(q + 16 * i), _mm512_cvtepi32_epi8(words));
        }
        sums_of_sixteen(q, sums);
        return scale.d;
    }
};

}  // namespace

extern const Kernel ei_kernel_quantize_q8_avx512vnni;
const Kernel ei_kernel_quantize_q8_avx512vnni(EI_ISA_AVX512VNNI, quantize<Column>);

}  // namespace ei
