// The int8 part of attention over q8_0 in 256-bit registers, once for each way to multiply (`Multiply`), 8 cells at a time.
#ifndef EI_ATTENTION_BLOCKS_AVX2_H
#define EI_ATTENTION_BLOCKS_AVX2_H

#include "attention/kv_q8_0.h"
#include "attention/lanes_avx2.h"

namespace ei {
namespace {

// VPMADDUBSW: |k| times q with the sign of k. A pair is at most 2 * 128 * 127, which 16 bits hold.
struct MultiplyAvx2 {
    static constexpr uint32_t kUnsign = 0;
    static EI_FORCE_INLINE __m256i begin(const QueryBlock &) { return _mm256_setzero_si256(); }
    static EI_FORCE_INLINE __m256i add(__m256i sum, __m256i k, __m256i q) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(k), _mm256_sign_epi8(q, k));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};

template <class Multiply>
struct Avx2Blocks {
    using L = Avx2Lanes;
    static constexpr int kVectors = 1;
    struct Ints {
        __m256i x[2];
    };

    static EI_FORCE_INLINE __m256i magnitude(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }
    static EI_FORCE_INLINE uint32_t largest(L::F a, L::F b) {
        const __m256i x = _mm256_max_epu32(magnitude(a.a), magnitude(a.b)), y = _mm256_max_epu32(magnitude(b.a), magnitude(b.b));
        const __m256i both = _mm256_max_epu32(x, y);
        __m128i half = _mm_max_epu32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        half = _mm_max_epu32(half, _mm_unpackhi_epi64(half, half));
        return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(half, _mm_shuffle_epi32(half, 1))));
    }
    static EI_FORCE_INLINE void quantize(L::F x, int8_t *to) {
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), bytes);
    }
    static EI_FORCE_INLINE void transpose(const char *const *cells, size_t offset, char *to) {
        Avx2Lanes::transpose_8([&](int i) { return load_8(cells[i] + offset); }, reinterpret_cast<float *>(to), kTileCells);
        Avx2Lanes::transpose_8([&](int i) { return load_8(cells[8 + i] + offset); }, reinterpret_cast<float *>(to) + 8, kTileCells);
    }
    // Bytes travel as floats: moved, never computed with.
    static EI_FORCE_INLINE __m256 load_8(const char *from) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
        return _mm256_castsi256_ps(_mm256_xor_si256(bytes, _mm256_set1_epi32(static_cast<int>(Multiply::kUnsign))));
    }
    template <int R>
    static EI_FORCE_INLINE void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][kVectors]) {
        EI_UNROLL
        for (int half = 0; half < 2; ++half) {
            EI_UNROLL
            for (int r = 0; r < R; ++r) sums[r][0].x[half] = Multiply::begin(*reinterpret_cast<const QueryBlock *>(q + r * stride));
            EI_UNROLL
            for (int group = 0; group < 8; ++group) {
                const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(k + group * kGroupBytes + 32 * half));
                EI_UNROLL
                for (int r = 0; r < R; ++r) {
                    int32_t four;
                    std::memcpy(&four, q + r * stride + 4 * group, sizeof four);
                    sums[r][0].x[half] = Multiply::add(sums[r][0].x[half], key, _mm256_set1_epi32(four));
                }
            }
        }
    }
    static EI_FORCE_INLINE L::F to_float(Ints v) { return {_mm256_cvtepi32_ps(v.x[0]), _mm256_cvtepi32_ps(v.x[1])}; }
    static EI_FORCE_INLINE __m256 load_int8_8(const int8_t *from) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
    }
    static EI_FORCE_INLINE L::F load_int8(const int8_t *from) { return {load_int8_8(from), load_int8_8(from + 8)}; }
    static EI_FORCE_INLINE L::F set_half(const uint16_t *from) {
        const __m256 d = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(*from)));
        return {d, d};
    }
};

}  // namespace
}  // namespace ei
#endif
