// Products with 256 bits: what those of AVX2 and of AVX-VNNI have in common, which is all but the multiplication of bytes. That comes as
// `Weights` (matmul/avx2.h, matmul/avxvnni.h): Body, unpack(), and
//
//   dot(q, c, start)         start + sum(q * a) of 32 elements of 8 rows with column c
//   scaled_dot(q, c, scale)  scale * sum(q * a), where `scale` is scale_of(8 lanes of 32 bits)
//
// A tile is 16 rows, as two halves of 8, x T columns, T = 1 .. 4: 2 T float sums, T chains, and few weights fill the 16 registers.
#ifndef EI_MATMUL_AVX256_H
#define EI_MATMUL_AVX256_H

#include <immintrin.h>

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

EI_INLINE __m256i load(const void *at) { return _mm256_loadu_si256(static_cast<const __m256i *>(at)); }
EI_INLINE __m256 load_half(const uint16_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at))); }
EI_INLINE __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
EI_INLINE __m256i high_nibbles(__m256i v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
EI_INLINE __m256i or_and(__m256i a, __m256i b, __m256i mask) { return _mm256_or_si256(a, _mm256_and_si256(b, mask)); }

EI_INLINE __m256i broadcast(const int8_t *four) {
    int32_t word;
    std::memcpy(&word, four, 4);
    return _mm256_set1_epi32(word);
}

// Weights that will be wanted in about a microsecond; the hardware prefetcher stops at every page. Runs through a panel at the pace of the
// product, kBytes a call, and leaves no line out.
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
EI_INLINE void store(const MatmulArgs &args, int first, const __m256 (&y)[2][T]) {
    for (int half = 0; half < 2; ++half) {
        const int n = args.n_rows - 8 * half;
        const __m256i rows = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        EI_UNROLL
        for (int c = 0; c < T; ++c) {
            if (n > 0) _mm256_maskstore_ps(args.out[first + c] + 8 * half, rows, y[half][c]);
        }
    }
}

template <int T>
EI_INLINE void clear(__m256 (&y)[2][T]) {
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[0][c] = y[1][c] = _mm256_setzero_ps();
}

// ---- Quants of 8 rows and 32 elements, unpacked.

struct UnpackedNibbles {
    using Body = Nibbles;
    __m256i w[8];
    EI_FORCE_INLINE void unpack(const uint8_t (&qs)[4][64], int half) {
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            const __m256i v = load(qs[j] + 32 * half);
            w[2 * j] = low_nibbles(v);
            w[2 * j + 1] = high_nibbles(v);
        }
    }
    EI_FORCE_INLINE void unpack(const Body &body, int half) { unpack(body.qs, half); }
};

struct UnpackedFiveBits {
    using Body = NibblesAndBits;
    __m256i w[8];
    EI_FORCE_INLINE void unpack(const uint8_t (&qs)[4][64], const uint8_t *qh, int half) {
        const __m256i h = load(qh + 32 * half), bit = _mm256_set1_epi8(16);
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            const __m256i v = load(qs[j] + 32 * half);
            w[2 * j] = low_nibbles(v);
            w[2 * j + 1] = high_nibbles(v);
        }
        w[0] = or_and(w[0], _mm256_slli_epi16(h, 4), bit);
        w[1] = or_and(w[1], _mm256_slli_epi16(h, 3), bit);
        w[2] = or_and(w[2], _mm256_slli_epi16(h, 2), bit);
        w[3] = or_and(w[3], _mm256_slli_epi16(h, 1), bit);
        w[4] = or_and(w[4], h, bit);
        w[5] = or_and(w[5], _mm256_srli_epi16(h, 1), bit);
        w[6] = or_and(w[6], _mm256_srli_epi16(h, 2), bit);
        w[7] = or_and(w[7], _mm256_srli_epi16(h, 3), bit);
    }
    EI_FORCE_INLINE void unpack(const Body &body, int half) { unpack(body.qs, body.qh, half); }
};

// ---- Formats of 32. One half of a run of blocks after the other: both at once would need more sums than there are registers.

// What a sum of products starts with, and what is added to 8 rows after it was scaled.
struct ZeroPoint {
    using Activation = ActivationZero32;
    using Tail = TailScale;
    static EI_FORCE_INLINE __m256i start(const Activation &a, int c) { return _mm256_set1_epi32(a.offset[c]); }
    static EI_FORCE_INLINE __m256 minimum(const Tail &, int) { return _mm256_setzero_ps(); }
    static EI_FORCE_INLINE __m256 add(__m256, const Activation &, int, __m256 y) { return y; }
};

struct Minimum {
    using Activation = ActivationMin32;
    using Tail = TailScaleMin;
    static EI_FORCE_INLINE __m256i start(const Activation &, int) { return _mm256_setzero_si256(); }
    static EI_FORCE_INLINE __m256 minimum(const Tail &tail, int half) { return load_half(tail.m + 8 * half); }
    static EI_FORCE_INLINE __m256 add(__m256 m, const Activation &a, int c, __m256 y) {
        return _mm256_fmadd_ps(m, _mm256_set1_ps(a.sum[c]), y);
    }
};

template <class Weights, class Kind, int T>
void tile32(const MatmulArgs &args, int first) {
    using Body = typename Weights::Body;
    using Tail = typename Kind::Tail;
    const uint8_t *run = args.panel;
    const typename Kind::Activation *a = reinterpret_cast<const typename Kind::Activation *>(args.activations);
    Prefetch ahead(args.panel);
    __m256 y[2][T];
    clear<T>(y);
    for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks, a += kRunBlocks) {
        const int64_t n = left < kRunBlocks ? left : kRunBlocks;
        const Body *const bodies = reinterpret_cast<const Body *>(run);
        const Tail *const tails = reinterpret_cast<const Tail *>(bodies + n);
        EI_ROLLED
        for (int half = 0; half < 2; ++half) {
            __m256 sums[T];
            EI_UNROLL
            for (int c = 0; c < T; ++c) sums[c] = y[half][c];
            for (int64_t b = 0; b < n; ++b) {
                if (half == 0) ahead.next<sizeof(Body) + sizeof(Tail)>();
                Weights weights;
                weights.unpack(bodies[b], half);
                const __m256 d = load_half(tails[b].d + 8 * half), m = Kind::minimum(tails[b], half);
                EI_UNROLL
                for (int c = 0; c < T; ++c) {
                    const __m256i sum = weights.dot(a[b].q, first + c, Kind::start(a[b], first + c));
                    sums[c] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(a[b].d[first + c])), _mm256_cvtepi32_ps(sum), sums[c]);
                    sums[c] = Kind::add(m, a[b], first + c, sums[c]);
                }
            }
            EI_UNROLL
            for (int c = 0; c < T; ++c) y[half][c] = sums[c];
        }
        run = reinterpret_cast<const uint8_t *>(tails + n);
    }
    store<T>(args, first, y);
}

// ---- Q4_K and Q5_K.

struct ScalesAndMins {
    alignas(32) uint8_t scale[8][16];
    alignas(32) uint8_t min[4][16][2];  // pairs of sub-blocks side by side, as VPMADDWD wants them
};

// Widens the 6-bit scales and mins of 16 rows to bytes, once a block.
EI_INLINE void unpack_scales(const uint8_t (&low)[8][16], const uint8_t (&high)[4][16], ScalesAndMins &out) {
    const __m128i nibble = _mm_set1_epi8(15), top = _mm_set1_epi8(0x30);
    for (int p = 0; p < 4; ++p) {
        const __m128i l0 = _mm_loadu_si128(reinterpret_cast<const __m128i *>(low[2 * p]));
        const __m128i l1 = _mm_loadu_si128(reinterpret_cast<const __m128i *>(low[2 * p + 1]));
        const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i *>(high[p]));
        // Bits 0-1, 2-3, 4-5, 6-7 of h: scale and min of the even sub-block, scale and min of the odd one.
        const __m128i s0 = _mm_or_si128(_mm_and_si128(l0, nibble), _mm_and_si128(_mm_slli_epi16(h, 4), top));
        const __m128i m0 = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(l0, 4), nibble), _mm_and_si128(_mm_slli_epi16(h, 2), top));
        const __m128i s1 = _mm_or_si128(_mm_and_si128(l1, nibble), _mm_and_si128(h, top));
        const __m128i m1 = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(l1, 4), nibble), _mm_and_si128(_mm_srli_epi16(h, 2), top));
        _mm_store_si128(reinterpret_cast<__m128i *>(out.scale[2 * p]), s0);
        _mm_store_si128(reinterpret_cast<__m128i *>(out.scale[2 * p + 1]), s1);
        _mm_store_si128(reinterpret_cast<__m128i *>(out.min[p]), _mm_unpacklo_epi8(m0, m1));
        _mm_store_si128(reinterpret_cast<__m128i *>(out.min[p]) + 1, _mm_unpackhi_epi8(m0, m1));
    }
}

template <class Weights, int T>
void tile_min256(const MatmulArgs &args, int first) {
    using Body = typename Weights::SuperBody;
    const Body *body = reinterpret_cast<const Body *>(args.panel);
    const ActivationMin256 *a = reinterpret_cast<const ActivationMin256 *>(args.activations);
    Prefetch ahead(args.panel);
    __m256 y[2][T];
    clear<T>(y);
    for (int64_t b = 0; b < args.n_blocks; ++b, ++body, ++a) {
        ScalesAndMins scales;
        unpack_scales(body->scale_low, body->scale_high, scales);
        EI_ROLLED
        for (int half = 0; half < 2; ++half) {
            __m256i total[T];
            EI_UNROLL
            for (int c = 0; c < T; ++c) total[c] = _mm256_setzero_si256();
            EI_UNROLL
            for (int p = 0; p < 4; ++p) {
                const __m256i min = _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i *>(scales.min[p]) + half));
                EI_UNROLL
                for (int c = 0; c < T; ++c) {
                    total[c] = _mm256_add_epi32(total[c], _mm256_madd_epi16(min, _mm256_set1_epi32(a->pair[p][first + c])));
                }
            }
            const __m256 dmin = load_half(body->dmin + 8 * half), d = load_half(body->d + 8 * half);
            EI_UNROLL
            for (int c = 0; c < T; ++c) {
                const __m256 scale = _mm256_mul_ps(dmin, _mm256_set1_ps(a->d[first + c]));
                y[half][c] = _mm256_fnmadd_ps(scale, _mm256_cvtepi32_ps(total[c]), y[half][c]);
                total[c] = _mm256_setzero_si256();
            }
            EI_ROLLED
            for (int s = 0; s < 8; ++s) {
                ahead.next<sizeof(Body) / 16>();
                Weights weights;
                weights.unpack(*body, s, half);
                const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(scales.scale[s] + 8 * half));
                const __m256i scale = Weights::scale_of(_mm256_cvtepu8_epi32(bytes));
                EI_UNROLL
                for (int c = 0; c < T; ++c) total[c] = _mm256_add_epi32(total[c], weights.scaled_dot(a->q + 8 * s, first + c, scale));
            }
            EI_UNROLL
            for (int c = 0; c < T; ++c) {
                y[half][c] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(a->d[first + c])), _mm256_cvtepi32_ps(total[c]), y[half][c]);
            }
        }
    }
    store<T>(args, first, y);
}

// ---- Up to 8 columns as two tiles of up to 4.

using Tile = void (*)(const MatmulArgs &args, int first);

EI_INLINE void run_tiles(const MatmulArgs &args, const Tile (&tiles)[4]) {
    const int first = args.n_columns > 4 ? (args.n_columns + 1) / 2 : args.n_columns;
    tiles[first - 1](args, 0);
    if (first < args.n_columns) tiles[args.n_columns - first - 1](args, first);
}

template <class Weights, class Kind>
void matmul32(const MatmulArgs &args) {
    static constexpr Tile kTiles[] = {tile32<Weights, Kind, 1>, tile32<Weights, Kind, 2>, tile32<Weights, Kind, 3>, tile32<Weights, Kind, 4>};
    run_tiles(args, kTiles);
}

template <class Weights>
void matmul_zero32(const MatmulArgs &args) {
    matmul32<Weights, ZeroPoint>(args);
}

template <class Weights>
void matmul_min32(const MatmulArgs &args) {
    matmul32<Weights, Minimum>(args);
}

template <class Weights>
void matmul_min256(const MatmulArgs &args) {
    static constexpr Tile kTiles[] = {tile_min256<Weights, 1>, tile_min256<Weights, 2>, tile_min256<Weights, 3>, tile_min256<Weights, 4>};
    run_tiles(args, kTiles);
}

}  // namespace
}  // namespace ei
#endif
