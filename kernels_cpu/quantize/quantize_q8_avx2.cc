// quantize_q8_scalar.cc with 256 bits, to the same bits: maxima of magnitudes as integers, sums of int8 exact, everything else element by
// element in the same operations.
#include <immintrin.h>

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

EI_INLINE int32_t reduce_add(__m256i v) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

EI_INLINE int32_t reduce_max(__m256i v) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

// kN elements -> int8 in q and the sums of every 16 of them. Returns d.
template <int kN>
EI_INLINE float quantize_column(const float *x, int8_t *q, int32_t (&sums)[kN / 16]) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < kN; i += 8) {
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    }
    const int32_t bits = reduce_max(largest);
    float max, inverse = 0.0f, d = 0.0f;
    std::memcpy(&max, &bits, sizeof max);
    if (bits >= 0x7f800000) {
        const uint32_t nan = 0x7fc00000;
        std::memcpy(&d, &nan, sizeof d);
    } else if (max >= kTinyActivation) {
        inverse = 127.0f / max;
        d = max / 127.0f;
    }
    const __m256i keep = _mm256_set1_epi32(inverse != 0.0f ? -1 : 0);  // infinity times 0 is not 0
    const __m256 factor = _mm256_set1_ps(inverse);
    for (int i = 0; i < kN; i += 16) {
        const __m256i a = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor)));
        const __m256i b = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), factor)));
        sums[i / 16] = reduce_add(_mm256_add_epi32(a, b));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(q + i), bytes);
    }
    return d;
}

template <class Block>
EI_INLINE void scatter(const int8_t *q, int n, int c, Block &block) {
    for (int g = 0; g < n / 4; ++g) std::memcpy(block.q[g][c], q + 4 * g, 4);
}

EI_INLINE int32_t pack_pair(int32_t low, int32_t high) {
    return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
}

void quantize_32(const QuantizeArgs &args) {
    // Both blocks of 32 have the same shape; only the last row differs.
    ActivationZero32 &block = *static_cast<ActivationZero32 *>(args.block);
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[32];
        int32_t sums[2];
        block.d[c] = quantize_column<32>(args.columns[c], q, sums);
        scatter(q, 32, c, block);
        const int32_t sum = sums[0] + sums[1];
        if (args.activation == Activation::zero32) {
            block.offset[c] = -args.zero_point * sum;
        } else {
            static_cast<ActivationMin32 *>(args.block)->sum[c] = block.d[c] * static_cast<float>(sum);
        }
    }
}

void quantize_256(const QuantizeArgs &args) {
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[256];
        int32_t sum[16];
        const float d = quantize_column<256>(args.columns[c], q, sum);
        if (args.activation == Activation::min256) {
            ActivationMin256 &block = *static_cast<ActivationMin256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int p = 0; p < 4; ++p) block.pair[p][c] = pack_pair(sum[4 * p] + sum[4 * p + 1], sum[4 * p + 2] + sum[4 * p + 3]);
        } else {
            ActivationZero256 &block = *static_cast<ActivationZero256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int s = 0; s < 16; ++s) block.offset[s][c] = -args.zero_point * sum[s];
            for (int p = 0; p < 8; ++p) block.pair[p][c] = pack_pair(sum[2 * p], sum[2 * p + 1]);
        }
    }
}

void quantize(const QuantizeArgs &args) {
    if (args.activation == Activation::zero32 || args.activation == Activation::min32) {
        quantize_32(args);
    } else {
        quantize_256(args);
    }
}

}  // namespace

extern const Kernel ei_kernel_quantize_q8_avx2;
const Kernel ei_kernel_quantize_q8_avx2(EI_ISA_AVX2, quantize);

}  // namespace ei
