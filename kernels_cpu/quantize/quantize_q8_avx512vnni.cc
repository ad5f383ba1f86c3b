// quantize_q8_scalar.cc with 512 bits, to the same bits: maxima of magnitudes as integers, sums of int8 exact, everything else element by
// element in the same operations.
#include <immintrin.h>

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

// kN / 16 registers of 16 elements -> int8 in q, int32 lanes kept in `words` for the sums. Returns d.
template <int kN>
EI_INLINE float quantize_column(const float *x, int8_t *q, __m512i (&words)[kN / 16]) {
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
        words[i] = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v[i], _mm512_set1_ps(inverse)));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(q + 16 * i), _mm512_cvtepi32_epi8(words[i]));
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
        __m512i words[2];
        block.d[c] = quantize_column<32>(args.columns[c], q, words);
        scatter(q, 32, c, block);
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(words[0], words[1]));
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
        __m512i words[16];
        const float d = quantize_column<256>(args.columns[c], q, words);
        int32_t sum[16];
        EI_UNROLL
        for (int s = 0; s < 16; ++s) sum[s] = _mm512_reduce_add_epi32(words[s]);
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
