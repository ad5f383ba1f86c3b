// quantize_q8_scalar.cc with 512 bits, to the same bits: maxima of magnitudes as integers, sums of int8 exact, everything else element by
// element in the same operations.
#include <immintrin.h>

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

// kN / 16 registers of 16 elements -> int8 in q. Returns d.
template <int kN>
EI_INLINE float quantize_column(const float *x, int8_t *q) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 v[kN / 16];
    __m512i largest = _mm512_setzero_si512();
    EI_UNROLL
    for (int i = 0; i < kN / 16; ++i) {
        v[i] = _mm512_loadu_ps(x + 16 * i);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
    }
    const int32_t bits = _mm512_reduce_max_epi32(largest);
    float max, inverse = 0.0f, d = 0.0f;
    std::memcpy(&max, &bits, sizeof max);
    if (bits >= 0x7f800000) {
        const uint32_t nan = 0x7fc00000;
        std::memcpy(&d, &nan, sizeof d);
    } else if (max >= kTinyActivation) {
        inverse = 127.0f / max;
        d = max / 127.0f;
    }
    const __mmask16 keep = inverse != 0.0f ? 0xffff : 0;  // infinity times 0 is not 0
    EI_UNROLL
    for (int i = 0; i < kN / 16; ++i) {
        const __m512i words = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v[i], _mm512_set1_ps(inverse)));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(q + 16 * i), _mm512_cvtepi32_epi8(words));
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

// Sums of four neighbours of 64 elements: VPDPBUSD with ones.
EI_INLINE __m512i sums_of_four(const int8_t *q) {
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(q));
}

// Sums of 16 neighbours of 256 elements: 4 lanes of each of 4 registers, by two rounds of transposing and adding.
EI_INLINE __m512i sums_of_sixteen(const int8_t *q) {
    const __m512i a = sums_of_four(q), b = sums_of_four(q + 64), c = sums_of_four(q + 128), d = sums_of_four(q + 192);
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Quarter i of `all`: sums of sub-block i of a, b, c and d.
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
}

void quantize_32(const QuantizeArgs &args) {
    // Both blocks of 32 have the same shape; only the last row differs.
    ActivationZero32 &block = *static_cast<ActivationZero32 *>(args.block);
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[32];
        block.d[c] = quantize_column<32>(args.columns[c], q);
        scatter(q, 32, c, block);
        const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(q));
        const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), all);
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_zextsi256_si512(fours));
        if (args.activation == Activation::zero32) {
            block.offset[c] = -args.zero_point * sum;
        } else {
            static_cast<ActivationMin32 *>(args.block)->sum[c] = block.d[c] * static_cast<float>(sum);
        }
    }
}

void quantize_256(const QuantizeArgs &args) {
    for (int c = 0; c < args.n_columns; ++c) {
        alignas(64) int8_t q[256];
        alignas(64) int32_t sum[16];
        const float d = quantize_column<256>(args.columns[c], q);
        _mm512_store_si512(sum, sums_of_sixteen(q));
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

extern const Kernel ei_kernel_quantize_q8_avx512vnni;
const Kernel ei_kernel_quantize_q8_avx512vnni(EI_ISA_AVX512VNNI, quantize);

}  // namespace ei
