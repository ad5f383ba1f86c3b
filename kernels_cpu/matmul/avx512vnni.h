// Products with VPDPBUSD on 512 bits: a register holds 16 rows x 4 k, so one panel row is one lane and nothing is ever summed across lanes.
//
// A tile is 16 rows x T columns, T = 1 .. 8: T float sums, T int32 sums and 8 weight registers stay in registers, and unpacking, which
// runs on other ports than VPDPBUSD, is paid once for T columns. The activations come as 32-bit broadcasts from memory.
#ifndef EI_MATMUL_AVX512VNNI_H
#define EI_MATMUL_AVX512VNNI_H

#include <immintrin.h>

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

EI_INLINE __m512i load(const void *at) { return _mm512_loadu_si512(at); }
EI_INLINE __m512 load_half(const uint16_t *at) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at))); }
EI_INLINE __m512i low_nibbles(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
EI_INLINE __m512i high_nibbles(__m512i v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
// a | (b & mask) in one instruction.
EI_INLINE __m512i or_and(__m512i a, __m512i b, __m512i mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xf8); }

EI_INLINE __m512i broadcast(const int8_t *four) {
    int32_t word;
    std::memcpy(&word, four, 4);
    return _mm512_set1_epi32(word);
}

// Weights that will be wanted in about a microsecond; the hardware prefetcher stops at every page. Into the second-level cache, whose
// queue of misses is the longer one: into the first, products of 5 to 8 columns took up to an eighth longer. It runs through a panel at
// the pace of the product, kBytes a call, and leaves no line out: one that comes late costs as much as the other forty-three of a run.
struct Prefetch {
    const uint8_t *at;
    explicit Prefetch(const uint8_t *panel) : at(panel + 8192) {}
    template <int kBytes>
    EI_FORCE_INLINE void next() {
        EI_UNROLL
        for (int i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char *>(at + i), _MM_HINT_T1);
        at += kBytes;
    }
};

template <int T>
EI_INLINE void store(const MatmulArgs &args, const __m512 (&y)[T]) {
    const __mmask16 rows = static_cast<__mmask16>((1u << args.n_rows) - 1);
    EI_UNROLL
    for (int c = 0; c < T; ++c) _mm512_mask_storeu_ps(args.out[c], rows, y[c]);
}

// ---- Nibbles, five bits and bytes to 8 registers of 4 k each.

EI_INLINE void unpack_nibbles(const uint8_t (*qs)[64], __m512i (&w)[8]) {
    EI_UNROLL
    for (int j = 0; j < 4; ++j) {
        const __m512i v = load(qs[j]);
        w[2 * j] = low_nibbles(v);
        w[2 * j + 1] = high_nibbles(v);
    }
}

// Shifts by 16-bit lanes move bits between bytes, but bit 4 of each byte is all that is kept.
EI_INLINE void add_fifth_bits(const uint8_t *qh, __m512i (&w)[8]) {
    const __m512i h = load(qh), bit = _mm512_set1_epi8(16);
    w[0] = or_and(w[0], _mm512_slli_epi16(h, 4), bit);
    w[1] = or_and(w[1], _mm512_slli_epi16(h, 3), bit);
    w[2] = or_and(w[2], _mm512_slli_epi16(h, 2), bit);
    w[3] = or_and(w[3], _mm512_slli_epi16(h, 1), bit);
    w[4] = or_and(w[4], h, bit);
    w[5] = or_and(w[5], _mm512_srli_epi16(h, 1), bit);
    w[6] = or_and(w[6], _mm512_srli_epi16(h, 2), bit);
    w[7] = or_and(w[7], _mm512_srli_epi16(h, 3), bit);
}

struct UnpackNibbles {
    using Body = Nibbles;
    static EI_FORCE_INLINE void unpack(const Body &body, __m512i (&w)[8]) { unpack_nibbles(body.qs, w); }
};

struct UnpackFiveBits {
    using Body = NibblesAndBits;
    static EI_FORCE_INLINE void unpack(const Body &body, __m512i (&w)[8]) {
        unpack_nibbles(body.qs, w);
        add_fifth_bits(body.qh, w);
    }
};

struct UnpackBytes {
    using Body = Bytes;
    static EI_FORCE_INLINE void unpack(const Body &body, __m512i (&w)[8]) {
        EI_UNROLL
        for (int g = 0; g < 8; ++g) w[g] = load(body.qs[g]);
    }
};

// ---- Formats of 32. |I| <= 32 * 255 * 127 + 128 * 32 * 127 < 2^21.

// What a sum of products starts with, and what is added after it was scaled.
struct ZeroPoint {
    using Activation = ActivationZero32;
    using Tail = TailScale;
    static EI_FORCE_INLINE __m512i start(const Activation &a, int c) { return _mm512_set1_epi32(a.offset[c]); }
    static EI_FORCE_INLINE __m512 minimum(const Tail &) { return _mm512_setzero_ps(); }
    static EI_FORCE_INLINE __m512 add(__m512, const Activation &, int, __m512 y) { return y; }
};

struct Minimum {
    using Activation = ActivationMin32;
    using Tail = TailScaleMin;
    static EI_FORCE_INLINE __m512i start(const Activation &, int) { return _mm512_setzero_si512(); }
    static EI_FORCE_INLINE __m512 minimum(const Tail &tail) { return load_half(tail.m); }
    static EI_FORCE_INLINE __m512 add(__m512 m, const Activation &a, int c, __m512 y) {
        return _mm512_fmadd_ps(m, _mm512_set1_ps(a.sum[c]), y);
    }
};

template <class Unpack, class Kind, int T>
void tile32(const MatmulArgs &args) {
    using Body = typename Unpack::Body;
    using Tail = typename Kind::Tail;
    const Body *body = reinterpret_cast<const Body *>(args.panel);
    const typename Kind::Activation *a = reinterpret_cast<const typename Kind::Activation *>(args.activations);
    Prefetch ahead(args.panel);
    __m512 y[T];
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[c] = _mm512_setzero_ps();
    for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
        const int64_t n = left < kRunBlocks ? left : kRunBlocks;
        const Tail *tail = reinterpret_cast<const Tail *>(body + n);
        for (int64_t b = 0; b < n; ++b, ++body, ++tail, ++a) {
            ahead.template next<sizeof(Body) + sizeof(Tail)>();
            __m512i w[8], sum[T];
            Unpack::unpack(*body, w);
            EI_UNROLL
            for (int c = 0; c < T; ++c) sum[c] = Kind::start(*a, c);
            EI_UNROLL
            for (int g = 0; g < 8; ++g) {
                EI_UNROLL
                for (int c = 0; c < T; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], w[g], broadcast(a->q[g][c]));
            }
            const __m512 d = load_half(tail->d), m = Kind::minimum(*tail);
            EI_UNROLL
            for (int c = 0; c < T; ++c) {
                y[c] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(a->d[c])), _mm512_cvtepi32_ps(sum[c]), y[c]);
                y[c] = Kind::add(m, *a, c, y[c]);
            }
        }
        body = reinterpret_cast<const Body *>(tail);
    }
    store<T>(args, y);
}

// ---- Q4_K and Q5_K.

struct ScalesAndMins {
    alignas(64) uint8_t scale[8][16];
    alignas(64) uint8_t min[4][16][2];  // pairs of sub-blocks side by side, as VPDPWSSD wants them
};

// Widens the 6-bit scales and mins of 16 rows to bytes, once a block.
EI_INLINE void unpack_scales(const uint8_t (&low)[8][16], const uint8_t (&high)[4][16], ScalesAndMins &out) {
    const __m512i nibble = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    EI_UNROLL
    for (int half = 0; half < 2; ++half) {
        // 4 sub-blocks of 16 rows: the high bits of an even one are in bits 0-3 of its pair's bytes, of an odd one in bits 4-7.
        const __m512i l = load(low[4 * half]);
        const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(high[2 * half]));
        const __m512i both = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), _mm512_castsi256_si512(pairs));
        const __m512i h = _mm512_and_si512(_mm512_mask_srli_epi16(both, 0xff00ff00u, both, 4), nibble);
        _mm512_store_si512(out.scale[4 * half], or_and(_mm512_and_si512(l, nibble), _mm512_slli_epi16(h, 4), top));
        const __m512i min = or_and(high_nibbles(l), _mm512_slli_epi16(h, 2), top);
        const __m128i m0 = _mm512_castsi512_si128(min), m1 = _mm512_extracti32x4_epi32(min, 1);
        const __m128i m2 = _mm512_extracti32x4_epi32(min, 2), m3 = _mm512_extracti32x4_epi32(min, 3);
        __m128i *to = reinterpret_cast<__m128i *>(out.min[2 * half]);
        _mm_store_si128(to, _mm_unpacklo_epi8(m0, m1));
        _mm_store_si128(to + 1, _mm_unpackhi_epi8(m0, m1));
        _mm_store_si128(to + 2, _mm_unpacklo_epi8(m2, m3));
        _mm_store_si128(to + 3, _mm_unpackhi_epi8(m2, m3));
    }
}

// |I| <= 8 * 63 * 32 * 31 * 127 < 2^26 and |J| <= 8 * 63 * 32 * 127 < 2^21.
template <class Unpack, int T>
void tile_min256(const MatmulArgs &args) {
    using Body = typename Unpack::Body;
    const Body *body = reinterpret_cast<const Body *>(args.panel);
    const ActivationMin256 *a = reinterpret_cast<const ActivationMin256 *>(args.activations);
    Prefetch ahead(args.panel);
    __m512 y[T];
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[c] = _mm512_setzero_ps();
    for (int64_t b = 0; b < args.n_blocks; ++b, ++body, ++a) {
        ScalesAndMins scales;
        unpack_scales(body->scale_low, body->scale_high, scales);
        ahead.template next<sizeof(Body) - 8 * Unpack::kStep>();
        __m512i total[T];
        EI_UNROLL
        for (int c = 0; c < T; ++c) total[c] = _mm512_setzero_si512();
        EI_UNROLL
        for (int p = 0; p < 4; ++p) {
            const __m512i min = _mm512_cvtepu8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(scales.min[p])));
            EI_UNROLL
            for (int c = 0; c < T; ++c) total[c] = _mm512_dpwssd_epi32(total[c], min, _mm512_set1_epi32(a->pair[p][c]));
        }
        const __m512 dmin = load_half(body->dmin);
        EI_UNROLL
        for (int c = 0; c < T; ++c) {
            y[c] = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, _mm512_set1_ps(a->d[c])), _mm512_cvtepi32_ps(total[c]), y[c]);
            total[c] = _mm512_setzero_si512();
        }
        EI_ROLLED
        for (int s = 0; s < 8; ++s) {
            ahead.template next<Unpack::kStep>();
            __m512i w[8], sum[T];
            Unpack::unpack(*body, s, w);
            EI_UNROLL
            for (int c = 0; c < T; ++c) sum[c] = _mm512_setzero_si512();
            EI_UNROLL
            for (int g = 0; g < 8; ++g) {
                EI_UNROLL
                for (int c = 0; c < T; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], w[g], broadcast(a->q[8 * s + g][c]));
            }
            const __m512i scale = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i *>(scales.scale[s])));
            EI_UNROLL
            for (int c = 0; c < T; ++c) total[c] = _mm512_add_epi32(total[c], _mm512_mullo_epi32(sum[c], scale));
        }
        const __m512 d = load_half(body->d);
        EI_UNROLL
        for (int c = 0; c < T; ++c) y[c] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(a->d[c])), _mm512_cvtepi32_ps(total[c]), y[c]);
    }
    store<T>(args, y);
}

// ---- The tile of as many columns as there are.

template <class Unpack, class Kind>
void matmul32(const MatmulArgs &args) {
    static constexpr Matmul kTiles[] = {tile32<Unpack, Kind, 1>, tile32<Unpack, Kind, 2>, tile32<Unpack, Kind, 3>, tile32<Unpack, Kind, 4>,
                                        tile32<Unpack, Kind, 5>, tile32<Unpack, Kind, 6>, tile32<Unpack, Kind, 7>, tile32<Unpack, Kind, 8>};
    kTiles[args.n_columns - 1](args);
}

template <class Unpack>
void matmul_zero32(const MatmulArgs &args) {
    matmul32<Unpack, ZeroPoint>(args);
}

template <class Unpack>
void matmul_min32(const MatmulArgs &args) {
    matmul32<Unpack, Minimum>(args);
}

template <class Unpack>
void matmul_min256(const MatmulArgs &args) {
    static constexpr Matmul kTiles[] = {tile_min256<Unpack, 1>, tile_min256<Unpack, 2>, tile_min256<Unpack, 3>, tile_min256<Unpack, 4>,
                                        tile_min256<Unpack, 5>, tile_min256<Unpack, 6>, tile_min256<Unpack, 7>, tile_min256<Unpack, 8>};
    kTiles[args.n_columns - 1](args);
}

}  // namespace
}  // namespace ei
#endif
