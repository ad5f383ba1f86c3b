#include <immintrin.h>

#include "quantize/blocks.h"

namespace ei {
namespace {

EI_INLINE int32_t reduce_add(__m256i v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

EI_INLINE uint32_t reduce_max(__m256i v) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1))));
}

struct Column {
    template <int kN>
    static EI_FORCE_INLINE float quantize(const float *x, int8_t *q, int32_t (&sums)[kN / 16]) {
        const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
        __m256i largest = _mm256_setzero_si256();
        for (int i = 0; i < kN; i += 8) {
            largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
        }
        const Scale scale = scale_of(reduce_max(largest));
        const __m256i keep = _mm256_set1_epi32(scale.inverse != 0.0f ? -1 : 0);  // infinity times 0 is not 0
        const __m256 factor = _mm256_set1_ps(scale.inverse);
        for (int i = 0; i < kN; i += 16) {
            const __m256i a = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor)));
            const __m256i b = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), factor)));
            sums[i / 16] = reduce_add(_mm256_add_epi32(a, b));
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(q + i), bytes);
        }
        return scale.d;
    }
};

}  // namespace

extern const Kernel ei_kernel_quantize_q8_avx2;
const Kernel ei_kernel_quantize_q8_avx2(EI_ISA_AVX2, quantize<Column>);

}  // namespace ei
