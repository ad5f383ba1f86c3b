// Products of bytes without VNNI: VPMADDUBSW multiplies 32 pairs of them and adds them by two to 16 bits, VPMADDWD to 32. Sums stay in
// 16 bits as long as they fit, which the formats' few bits allow: the bound stands at each chain.
#ifndef EI_MATMUL_AVX2_H
#define EI_MATMUL_AVX2_H

#include "matmul/avx256.h"

namespace ei {
namespace {

// A scale as VPMADDWD wants it, twice the same 16 bits: for both halves of what VPMADDUBSW leaves.
struct ScaleOf16Bits {
    static EI_FORCE_INLINE __m256i scale_of(__m256i lanes) { return _mm256_blend_epi16(lanes, _mm256_slli_epi32(lanes, 16), 0xaa); }
};

// `Products` has scaled_dot() alone: a dot is one with scale 1.
template <class Products>
struct Avx2Weights : Products, ScaleOf16Bits {
    EI_FORCE_INLINE __m256i dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i start) const {
        return _mm256_add_epi32(start, this->scaled_dot(q, c, _mm256_set1_epi16(1)));
    }
};

// Up to 15: 8 products of at most 2 * 15 * 127 fit 16 bits.
struct NibbleProducts : UnpackedNibbles {
    EI_FORCE_INLINE __m256i scaled_dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i scale) const {
        __m256i sum = _mm256_maddubs_epi16(w[0], broadcast(q[0][c]));
        EI_UNROLL
        for (int g = 1; g < 8; ++g) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[g], broadcast(q[g][c])));
        return _mm256_madd_epi16(sum, scale);
    }
};
using NibbleWeights = Avx2Weights<NibbleProducts>;

// Up to 31: 4 products of at most 2 * 31 * 127.
struct FiveBitProducts : UnpackedFiveBits {
    EI_FORCE_INLINE __m256i scaled_dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i scale) const {
        __m256i a = _mm256_maddubs_epi16(w[0], broadcast(q[0][c])), b = _mm256_maddubs_epi16(w[4], broadcast(q[4][c]));
        EI_UNROLL
        for (int g = 1; g < 4; ++g) {
            a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w[g], broadcast(q[g][c])));
            b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w[g + 4], broadcast(q[g + 4][c])));
        }
        return _mm256_add_epi32(_mm256_madd_epi16(a, scale), _mm256_madd_epi16(b, scale));
    }
};
using FiveBitWeights = Avx2Weights<FiveBitProducts>;

// Signed bytes: |w| times a with w's sign, at most 2 * 128 * 127; nothing more fits. The zero point is in the weights already, so the
// offset that sums start with elsewhere is left out.
struct SignedWeights {
    __m256i w[8];
    EI_FORCE_INLINE __m256i dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i) const {
        __m256i sum = _mm256_setzero_si256();
        EI_UNROLL
        for (int g = 0; g < 8; ++g) {
            const __m256i product = _mm256_maddubs_epi16(_mm256_abs_epi8(w[g]), _mm256_sign_epi8(broadcast(q[g][c]), w[g]));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(product, _mm256_set1_epi16(1)));
        }
        return sum;
    }
};

struct ByteWeights : SignedWeights {
    using Body = Bytes;
    EI_FORCE_INLINE void unpack(const Body &body, int half) {
        EI_UNROLL
        for (int g = 0; g < 8; ++g) w[g] = _mm256_xor_si256(load(body.qs[g] + 32 * half), _mm256_set1_epi8(-128));
    }
};

}  // namespace
}  // namespace ei
#endif
