// The int8 part of attention over q8_0 with VPDPBUSD: keys are stored as q + 128, unsigned, and the query's offset takes it back.
#ifndef EI_ATTENTION_BLOCKS_AVX512VNNI_H
#define EI_ATTENTION_BLOCKS_AVX512VNNI_H

#include "attention/kv_q8_0.h"
#include "attention/lanes_avx512.h"

namespace ei {
namespace {

struct Avx512VnniBlocks {
    using L = Avx512Lanes;
    // 6 x 2 sums of int8 and as many of scores, 2 registers of keys: 26 of 32; queries are broadcast by the product's operand.
    static constexpr int kVectors = 2;
    using Ints = __m512i;

    static EI_FORCE_INLINE uint32_t largest(L::F a, L::F b) {
        const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
        const __m512i x = _mm512_and_si512(_mm512_castps_si512(a), magnitude), y = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
        return _mm512_reduce_max_epu32(_mm512_max_epu32(x, y));
    }
    static EI_FORCE_INLINE void quantize(L::F x, int8_t *to) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
    }
    static EI_FORCE_INLINE __m512i load_two(const char *a, const char *b) {
        const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(a)));
        return _mm512_inserti64x4(low, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b)), 1);
    }
    static EI_FORCE_INLINE void transpose(const char *const *cells, size_t offset, char *to) {
        __m512i r[8], t[8];
        // r[i], r[4 + i]: groups 0 .. 7 of cell i, of cell 4 + i; of cell 8 + i, of cell 12 + i.
        EI_UNROLL
        for (int i = 0; i < 8; ++i) {
            const int cell = i < 4 ? i : i + 4;
            r[i] = load_two(cells[cell] + offset, cells[cell + 4] + offset);
        }
        EI_UNROLL
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
        const __m512i unsign = _mm512_set1_epi32(static_cast<int>(0x80808080));
        EI_UNROLL
        for (int i = 0; i < 8; i += 4) {
            EI_UNROLL
            for (int j = 0; j < 2; ++j) {
                r[i + 2 * j] = _mm512_xor_si512(_mm512_unpacklo_epi64(t[i + j], t[i + j + 2]), unsign);
                r[i + 2 * j + 1] = _mm512_xor_si512(_mm512_unpackhi_epi64(t[i + j], t[i + j + 2]), unsign);
            }
        }
        // Quarters of r[j]: group j of cells 0 .. 3, group 4 + j of them, the same of cells 4 .. 7; of r[4 + j]: of cells 8 .. 15.
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            _mm512_storeu_si512(to + j * kGroupBytes, _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88));
            _mm512_storeu_si512(to + (4 + j) * kGroupBytes, _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd));
        }
    }
    template <int R>
    static EI_FORCE_INLINE void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][kVectors]) {
        EI_UNROLL
        for (int r = 0; r < R; ++r) {
            EI_UNROLL
            for (int j = 0; j < kVectors; ++j) sums[r][j] = _mm512_set1_epi32(reinterpret_cast<const QueryBlock *>(q + r * stride)->offset);
        }
        EI_UNROLL
        for (int group = 0; group < 8; ++group) {
            __m512i key[kVectors];
            EI_UNROLL
            for (int j = 0; j < kVectors; ++j) key[j] = _mm512_loadu_si512(k + group * kGroupBytes + 64 * j);
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                int32_t four;
                std::memcpy(&four, q + r * stride + 4 * group, sizeof four);
                EI_UNROLL
                for (int j = 0; j < kVectors; ++j) sums[r][j] = _mm512_dpbusd_epi32(sums[r][j], key[j], _mm512_set1_epi32(four));
            }
        }
    }
    static EI_FORCE_INLINE L::F to_float(Ints v) { return _mm512_cvtepi32_ps(v); }
    static EI_FORCE_INLINE L::F load_int8(const int8_t *from) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
    }
    static EI_FORCE_INLINE L::F set_half(const uint16_t *from) { return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(*from))); }
};

}  // namespace
}  // namespace ei
#endif
