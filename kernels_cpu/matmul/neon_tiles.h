// What the three ARM instruction sets share: unpacking weights, and tiles that leave the multiplying to an `Engine` (neon.h,
// neon_dotprod.h, neon_i8mm.h). Four registers hold 16 rows x 4 k; a tile works on two at a time, 8 rows x T columns.
//
// Engine::kColumns is the widest T. Engine::Sums<Weights, T> are the sums of one block's products:
//
//   start() or start(offset)           column c begins at 0 or offset[c]; or rows() adds that, as suits the engine
//   add(j, w, q, first)                + groups 2j and 2j + 1: weights w[group][4 rows], activations q[group][first + c]
//   rows(r, c) or rows(r, c, offset)   the sums of rows 4r .. 4r + 3 with column c
#ifndef EI_MATMUL_NEON_TILES_H
#define EI_MATMUL_NEON_TILES_H

#include <arm_neon.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "core/compiler.h"
#include "core/kernel.h"
#include "matmul/iq4_nl.h"

namespace ei {
namespace {

EI_INLINE float32x4_t load_half(const uint16_t *at) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at))); }
EI_INLINE float32x4_t scaled(float32x4_t v, float factor) { return vmulq_f32(v, vdupq_n_f32(factor)); }
// The activations of one group, from the tile's first column on.
EI_INLINE const int8_t *columns(const int8_t (*q)[kGroupColumns][4], int first) { return reinterpret_cast<const int8_t *>(q) + 4 * first; }

// Shifts want a constant; `left` is one once loops are unrolled.
EI_INLINE uint8x16_t shifted(uint8x16_t v, int left) {
    switch (left) {
        case 4: return vshlq_n_u8(v, 4);
        case 3: return vshlq_n_u8(v, 3);
        case 2: return vshlq_n_u8(v, 2);
        case 1: return vshlq_n_u8(v, 1);
        case -1: return vshrq_n_u8(v, 1);
        case -2: return vshrq_n_u8(v, 2);
        case -3: return vshrq_n_u8(v, 3);
        default: return v;
    }
}

// ---- Weights: groups 2j and 2j + 1 of 8 rows. kMax is the largest magnitude, kGroups how many groups one sum takes; kAddOffset says
// whether the zero point is still to be taken off.

using Pair = uint8x16_t[2][2];

struct NibbleWeights {
    using Body = Nibbles;
    static constexpr int kMax = 15, kGroups = 8;
    static constexpr bool kAddOffset = true;
    static EI_FORCE_INLINE void unpack(const uint8_t *qs, int half, Pair &w) {
        EI_UNROLL
        for (int r = 0; r < 2; ++r) {
            const uint8x16_t v = vld1q_u8(qs + 32 * half + 16 * r);
            w[0][r] = vandq_u8(v, vdupq_n_u8(15));
            w[1][r] = vshrq_n_u8(v, 4);
        }
    }
    static EI_FORCE_INLINE void unpack(const Body &body, int j, int half, Pair &w) { unpack(body.qs[j], half, w); }
    static EI_FORCE_INLINE void unpack(const BodyQ4_K &body, int s, int j, int half, Pair &w) { unpack(body.qs[s][j], half, w); }
};

struct FiveBitWeights {
    using Body = NibblesAndBits;
    static constexpr int kMax = 31, kGroups = 8;
    static constexpr bool kAddOffset = true;
    static EI_FORCE_INLINE void unpack(const uint8_t *qs, const uint8_t *qh, int j, int half, Pair &w) {
        NibbleWeights::unpack(qs, half, w);
        EI_UNROLL
        for (int r = 0; r < 2; ++r) {
            const uint8x16_t h = vld1q_u8(qh + 32 * half + 16 * r);
            w[0][r] = vbslq_u8(vdupq_n_u8(16), shifted(h, 4 - 2 * j), w[0][r]);
            w[1][r] = vbslq_u8(vdupq_n_u8(16), shifted(h, 3 - 2 * j), w[1][r]);
        }
    }
    static EI_FORCE_INLINE void unpack(const Body &body, int j, int half, Pair &w) { unpack(body.qs[j], body.qh, j, half, w); }
    static EI_FORCE_INLINE void unpack(const BodyQ5_K &body, int s, int j, int half, Pair &w) {
        unpack(body.qs[s][j], body.qh[s], j, half, w);
    }
};

struct SixBitWeights {
    static constexpr int kMax = 63, kGroups = 4;
    static constexpr bool kAddOffset = true;
    static EI_FORCE_INLINE void unpack(const BodyQ6_K &body, int s, int j, int half, Pair &w) {
        NibbleWeights::unpack(body.ql[s][j], half, w);
        EI_UNROLL
        for (int r = 0; r < 2; ++r) {
            const uint8x16_t h = vld1q_u8(body.qh[s] + 32 * half + 16 * r);
            w[0][r] = vbslq_u8(vdupq_n_u8(0x30), shifted(h, 4 - 4 * j), w[0][r]);
            w[1][r] = vbslq_u8(vdupq_n_u8(0x30), shifted(h, 2 - 4 * j), w[1][r]);
        }
    }
};

// As they are stored for an engine that multiplies unsigned by signed; for others signed, and the zero point is gone with that.
template <bool kUnsigned>
struct ByteWeights {
    using Body = Bytes;
    static constexpr int kMax = 128, kGroups = 8;
    static constexpr bool kAddOffset = kUnsigned;
    static EI_FORCE_INLINE void unpack(const Body &body, int j, int half, Pair &w) {
        EI_UNROLL
        for (int r = 0; r < 2; ++r) {
            EI_UNROLL
            for (int g = 0; g < 2; ++g) {
                const uint8x16_t v = vld1q_u8(body.qs[2 * j + g] + 32 * half + 16 * r);
                w[g][r] = kUnsigned ? v : veorq_u8(v, vdupq_n_u8(128));
            }
        }
    }
};

template <bool kUnsigned>
struct TableWeights {
    using Body = Nibbles;
    static constexpr int kMax = 127, kGroups = 8;
    static constexpr bool kAddOffset = kUnsigned;
    static EI_FORCE_INLINE void unpack(const Body &body, int j, int half, Pair &w) {
        const uint8x16_t stored = vld1q_u8(kIq4NlValues), values = kUnsigned ? stored : veorq_u8(stored, vdupq_n_u8(128));
        NibbleWeights::unpack(body.qs[j], half, w);
        EI_UNROLL
        for (int r = 0; r < 2; ++r) {
            w[0][r] = vqtbl1q_u8(values, w[0][r]);
            w[1][r] = vqtbl1q_u8(values, w[1][r]);
        }
    }
};

// ---- Results: y[half][r][c] are rows 8 half + 4r .. + 3 of column c.

template <int T>
EI_INLINE void clear(float32x4_t (&y)[2][2][T]) {
    EI_UNROLL
    for (int c = 0; c < T; ++c) y[0][0][c] = y[0][1][c] = y[1][0][c] = y[1][1][c] = vdupq_n_f32(0.0f);
}

template <int T>
EI_INLINE void store(const MatmulArgs &args, int first, const float32x4_t (&y)[2][2][T]) {
    EI_UNROLL
    for (int c = 0; c < T; ++c) {
        float rows[kPanelRows];
        EI_UNROLL
        for (int i = 0; i < 4; ++i) vst1q_f32(rows + 4 * i, y[i / 2][i % 2][c]);
        std::memcpy(args.out[first + c], rows, static_cast<size_t>(args.n_rows) * sizeof(float));
    }
}

// ---- Formats of 32. |I| <= 32 * 255 * 127 + 128 * 32 * 127 < 2^21.

template <class Engine, class Weights>
struct Zero32 {
    static constexpr int kColumns = Engine::kColumns;
    template <int T>
    static void tile(const MatmulArgs &args, int first) {
        using Body = typename Weights::Body;
        const Body *body = reinterpret_cast<const Body *>(args.panel);
        const ActivationZero32 *a = reinterpret_cast<const ActivationZero32 *>(args.activations);
        float32x4_t y[2][2][T];
        clear<T>(y);
        for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
            const int64_t n = left < kRunBlocks ? left : kRunBlocks;
            const TailScale *const tail = reinterpret_cast<const TailScale *>(body + n);
            for (int64_t i = 0; i < 2 * n; ++i) {
                const int64_t b = i / 2;
                const int half = static_cast<int>(i % 2);
                const int32_t *const offset = a[b].offset + first;
                typename Engine::template Sums<Weights, T> sums;
                if constexpr (Weights::kAddOffset) {
                    sums.start(offset);
                } else {
                    sums.start();
                }
                EI_UNROLL
                for (int j = 0; j < 4; ++j) {
                    Pair w;
                    Weights::unpack(body[b], j, half, w);
                    sums.add(j, w, a[b].q + 2 * j, first);
                }
                EI_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float32x4_t d = load_half(tail[b].d + 8 * half + 4 * r);
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        int32x4_t sum;
                        if constexpr (Weights::kAddOffset) {
                            sum = sums.rows(r, c, offset);
                        } else {
                            sum = sums.rows(r, c);
                        }
                        y[half][r][c] = vfmaq_f32(y[half][r][c], scaled(d, a[b].d[first + c]), vcvtq_f32_s32(sum));
                    }
                }
            }
            body = reinterpret_cast<const Body *>(tail + n);
            a += n;
        }
        store<T>(args, first, y);
    }
};

template <class Engine, class Weights>
struct Min32 {
    static constexpr int kColumns = Engine::kColumns;
    template <int T>
    static void tile(const MatmulArgs &args, int first) {
        using Body = typename Weights::Body;
        const Body *body = reinterpret_cast<const Body *>(args.panel);
        const ActivationMin32 *a = reinterpret_cast<const ActivationMin32 *>(args.activations);
        float32x4_t y[2][2][T];
        clear<T>(y);
        for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
            const int64_t n = left < kRunBlocks ? left : kRunBlocks;
            const TailScaleMin *const tail = reinterpret_cast<const TailScaleMin *>(body + n);
            for (int64_t i = 0; i < 2 * n; ++i) {
                const int64_t b = i / 2;
                const int half = static_cast<int>(i % 2);
                typename Engine::template Sums<Weights, T> sums;
                sums.start();
                EI_UNROLL
                for (int j = 0; j < 4; ++j) {
                    Pair w;
                    Weights::unpack(body[b], j, half, w);
                    sums.add(j, w, a[b].q + 2 * j, first);
                }
                EI_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float32x4_t d = load_half(tail[b].d + 8 * half + 4 * r), m = load_half(tail[b].m + 8 * half + 4 * r);
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        const float32x4_t sum = vcvtq_f32_s32(sums.rows(r, c));
                        const float32x4_t at = vfmaq_f32(y[half][r][c], scaled(d, a[b].d[first + c]), sum);
                        y[half][r][c] = vfmaq_f32(at, m, vdupq_n_f32(a[b].sum[first + c]));
                    }
                }
            }
            body = reinterpret_cast<const Body *>(tail + n);
            a += n;
        }
        store<T>(args, first, y);
    }
};

// ---- Q4_K and Q5_K.

struct ScalesAndMins {
    uint8_t scale[8][16], min[8][16];
};

// Widens the 6-bit scales and mins of 16 rows to bytes, once a block.
EI_INLINE void unpack_scales(const uint8_t (&low)[8][16], const uint8_t (&high)[4][16], ScalesAndMins &out) {
    const uint8x16_t nibble = vdupq_n_u8(15), top = vdupq_n_u8(0x30);
    EI_UNROLL
    for (int p = 0; p < 4; ++p) {
        const uint8x16_t even = vld1q_u8(low[2 * p]), odd = vld1q_u8(low[2 * p + 1]), h = vld1q_u8(high[p]);
        // Bits 0-1, 2-3, 4-5, 6-7 of h: scale and min of the even sub-block, scale and min of the odd one.
        vst1q_u8(out.scale[2 * p], vbslq_u8(top, vshlq_n_u8(h, 4), vandq_u8(even, nibble)));
        vst1q_u8(out.min[2 * p], vbslq_u8(top, vshlq_n_u8(h, 2), vshrq_n_u8(even, 4)));
        vst1q_u8(out.scale[2 * p + 1], vbslq_u8(top, h, vandq_u8(odd, nibble)));
        vst1q_u8(out.min[2 * p + 1], vbslq_u8(top, vshrq_n_u8(h, 2), vshrq_n_u8(odd, 4)));
    }
}

// |I| <= 8 * 63 * 32 * 31 * 127 < 2^26 and |J| <= 8 * 63 * 32 * 127 < 2^21.
template <class Engine, class Weights, class Body>
struct Min256 {
    static constexpr int kColumns = Engine::kColumns;
    template <int T>
    static void tile(const MatmulArgs &args, int first) {
        const Body *body = reinterpret_cast<const Body *>(args.panel);
        const ActivationMin256 *a = reinterpret_cast<const ActivationMin256 *>(args.activations);
        float32x4_t y[2][2][T];
        clear<T>(y);
        for (int64_t b = 0; b < args.n_blocks; ++b, ++body, ++a) {
            ScalesAndMins scales;
            unpack_scales(body->scale_low, body->scale_high, scales);
            EI_ROLLED
            for (int half = 0; half < 2; ++half) {
                int32x4_t total[2][T];
                EI_UNROLL
                for (int c = 0; c < T; ++c) total[0][c] = total[1][c] = vdupq_n_s32(0);
                EI_ROLLED
                for (int s = 0; s < 8; ++s) {
                    const int16x8_t min = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(scales.min[s] + 8 * half)));
                    const int16_t *const sums = reinterpret_cast<const int16_t *>(a->pair[s / 2] + first) + s % 2;
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        const int16x4_t sum = vld1_dup_s16(sums + 2 * c);
                        total[0][c] = vmlal_s16(total[0][c], vget_low_s16(min), sum);
                        total[1][c] = vmlal_s16(total[1][c], vget_high_s16(min), sum);
                    }
                }
                EI_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float32x4_t dmin = load_half(body->dmin + 8 * half + 4 * r);
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        y[half][r][c] = vfmsq_f32(y[half][r][c], scaled(dmin, a->d[first + c]), vcvtq_f32_s32(total[r][c]));
                        total[r][c] = vdupq_n_s32(0);
                    }
                }
                EI_ROLLED
                for (int s = 0; s < 8; ++s) {
                    typename Engine::template Sums<Weights, T> sums;
                    sums.start();
                    EI_UNROLL
                    for (int j = 0; j < 4; ++j) {
                        Pair w;
                        Weights::unpack(*body, s, j, half, w);
                        sums.add(j, w, a->q + 8 * s + 2 * j, first);
                    }
                    const uint16x8_t scale = vmovl_u8(vld1_u8(scales.scale[s] + 8 * half));
                    const uint32x4_t wide[2] = {vmovl_u16(vget_low_u16(scale)), vmovl_u16(vget_high_u16(scale))};
                    EI_UNROLL
                    for (int r = 0; r < 2; ++r) {
                        EI_UNROLL
                        for (int c = 0; c < T; ++c) total[r][c] = vmlaq_s32(total[r][c], sums.rows(r, c), vreinterpretq_s32_u32(wide[r]));
                    }
                }
                EI_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float32x4_t d = load_half(body->d + 8 * half + 4 * r);
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) {
                        y[half][r][c] = vfmaq_f32(y[half][r][c], scaled(d, a->d[first + c]), vcvtq_f32_s32(total[r][c]));
                    }
                }
            }
        }
        store<T>(args, first, y);
    }
};

// ---- Q6_K. |I| <= 16 * 128 * 16 * 32 * 127 < 2^27.

template <class Engine>
struct Zero256 {
    static constexpr int kColumns = Engine::kColumns;
    template <int T>
    static void tile(const MatmulArgs &args, int first) {
        const BodyQ6_K *body = reinterpret_cast<const BodyQ6_K *>(args.panel);
        const ActivationZero256 *a = reinterpret_cast<const ActivationZero256 *>(args.activations);
        float32x4_t y[2][2][T];
        clear<T>(y);
        for (int64_t left = args.n_blocks; left > 0; left -= kRunBlocks) {
            const int64_t n = left < kRunBlocks ? left : kRunBlocks;
            const TailScale *tail = reinterpret_cast<const TailScale *>(body + n);
            for (int64_t b = 0; b < n; ++b, ++body, ++tail, ++a) {
                EI_ROLLED
                for (int half = 0; half < 2; ++half) {
                    int32x4_t total[2][T];
                    EI_UNROLL
                    for (int c = 0; c < T; ++c) total[0][c] = total[1][c] = vdupq_n_s32(0);
                    EI_ROLLED
                    for (int s = 0; s < 16; ++s) {
                        const int32_t *const offset = a->offset[s] + first;
                        typename Engine::template Sums<SixBitWeights, T> sums;
                        sums.start(offset);
                        EI_UNROLL
                        for (int j = 0; j < 2; ++j) {
                            Pair w;
                            SixBitWeights::unpack(*body, s, j, half, w);
                            sums.add(j, w, a->q + 4 * s + 2 * j, first);
                        }
                        const int16x8_t scale = vmovl_s8(vld1_s8(body->scale[s] + 8 * half));
                        const int32x4_t wide[2] = {vmovl_s16(vget_low_s16(scale)), vmovl_s16(vget_high_s16(scale))};
                        EI_UNROLL
                        for (int r = 0; r < 2; ++r) {
                            EI_UNROLL
                            for (int c = 0; c < T; ++c) total[r][c] = vmlaq_s32(total[r][c], sums.rows(r, c, offset), wide[r]);
                        }
                    }
                    EI_UNROLL
                    for (int r = 0; r < 2; ++r) {
                        const float32x4_t d = load_half(tail->d + 8 * half + 4 * r);
                        EI_UNROLL
                        for (int c = 0; c < T; ++c) {
                            y[half][r][c] = vfmaq_f32(y[half][r][c], scaled(d, a->d[first + c]), vcvtq_f32_s32(total[r][c]));
                        }
                    }
                }
            }
            body = reinterpret_cast<const BodyQ6_K *>(tail);
        }
        store<T>(args, first, y);
    }
};

// ---- Up to 8 columns as one tile, or as two of about the same width where an engine's registers hold fewer.

using Tile = void (*)(const MatmulArgs &args, int first);

template <class Kind, int... kIndex>
EI_INLINE void run_tiles(const MatmulArgs &args, std::integer_sequence<int, kIndex...>) {
    static constexpr Tile kTiles[] = {Kind::template tile<kIndex + 1>...};
    const int n = args.n_columns, first = n > Kind::kColumns ? (n + 1) / 2 : n;
    kTiles[first - 1](args, 0);
    if (first < n) kTiles[n - first - 1](args, first);
}

template <class Kind>
void matmul(const MatmulArgs &args) {
    run_tiles<Kind>(args, std::make_integer_sequence<int, Kind::kColumns>());
}

}  // namespace
}  // namespace ei
#endif
