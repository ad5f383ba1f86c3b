// Products of bytes with AVX-VNNI: VPDPBUSD on 256 bits, in its VEX encoding, which processors without AVX-512 have. Weights are unsigned
// and activations signed; sums are exact in 32 bits.
#ifndef EI_MATMUL_AVXVNNI_H
#define EI_MATMUL_AVXVNNI_H

#include "matmul/avx256.h"

namespace ei {
namespace {

struct ScaleOf32Bits {
    static EI_FORCE_INLINE __m256i scale_of(__m256i lanes) { return lanes; }
};

// |sum(q * a)| <= 32 * 255 * 127 < 2^20, and times a scale of 6 bits < 2^26.
template <class Unpacked>
struct VnniWeights : Unpacked, ScaleOf32Bits {
    EI_FORCE_INLINE __m256i dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i start) const {
        EI_UNROLL
        for (int g = 0; g < 8; ++g) start = _mm256_dpbusd_avx_epi32(start, this->w[g], broadcast(q[g][c]));
        return start;
    }
    EI_FORCE_INLINE __m256i scaled_dot(const int8_t (*q)[kGroupColumns][4], int c, __m256i scale) const {
        return _mm256_mullo_epi32(dot(q, c, _mm256_setzero_si256()), scale);
    }
};

using NibbleWeights = VnniWeights<UnpackedNibbles>;
using FiveBitWeights = VnniWeights<UnpackedFiveBits>;

struct UnpackedBytes {
    using Body = Bytes;
    __m256i w[8];
    EI_FORCE_INLINE void unpack(const Body &body, int half) {
        EI_UNROLL
        for (int g = 0; g < 8; ++g) w[g] = load(body.qs[g] + 32 * half);
    }
};
using ByteWeights = VnniWeights<UnpackedBytes>;

}  // namespace
}  // namespace ei
#endif
