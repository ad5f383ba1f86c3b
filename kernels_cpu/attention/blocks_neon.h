// The int8 part of attention over q8_0 on ARM, once for each way to multiply (`Multiply`).
#ifndef EI_ATTENTION_BLOCKS_NEON_H
#define EI_ATTENTION_BLOCKS_NEON_H

#include "attention/kv_q8_0.h"
#include "attention/lanes_neon.h"

namespace ei {
namespace {

EI_INLINE int8x16_t four_of(const char *q, int group) {
    int32_t four;
    std::memcpy(&four, q + 4 * group, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

// SMULL and SMLAL: two products, at most 2 * 128 * 127, in 16 bits; 4 cells at a time, for a row takes 2 registers until its pairs are
// added.
struct MultiplyNeon {
    template <int R, class Ints>
    static EI_FORCE_INLINE void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][1]) {
        EI_UNROLL
        for (int quarter = 0; quarter < 4; ++quarter) {
            int32x4_t low[R], high[R];
            EI_UNROLL
            for (int r = 0; r < R; ++r) low[r] = high[r] = vdupq_n_s32(0);
            for (int group = 0; group < 8; group += 2) {
                const int8_t *const at = reinterpret_cast<const int8_t *>(k + group * kGroupBytes + 16 * quarter);
                const int8x16_t a = vld1q_s8(at), b = vld1q_s8(at + kGroupBytes);
                EI_UNROLL
                for (int r = 0; r < R; ++r) {
                    const int8x16_t qa = four_of(q + r * stride, group), qb = four_of(q + r * stride, group + 1);
                    low[r] = vpadalq_s16(low[r], vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(qa)), vget_low_s8(b), vget_low_s8(qb)));
                    high[r] = vpadalq_s16(high[r], vmlal_high_s8(vmull_high_s8(a, qa), b, qb));
                }
            }
            EI_UNROLL
            for (int r = 0; r < R; ++r) sums[r][0].x[quarter] = vpaddq_s32(low[r], high[r]);
        }
    }
};

template <class Multiply>
struct NeonBlocks {
    using L = NeonLanes;
    static constexpr int kVectors = 1;
    struct Ints {
        int32x4_t x[4];
    };

    static EI_FORCE_INLINE uint32_t largest(L::F a, L::F b) {
        uint32x4_t best = vdupq_n_u32(0);
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            best = vmaxq_u32(best, vreinterpretq_u32_f32(vabsq_f32(a.x[i])));
            best = vmaxq_u32(best, vreinterpretq_u32_f32(vabsq_f32(b.x[i])));
        }
        return vmaxvq_u32(best);
    }
    static EI_FORCE_INLINE void quantize(L::F x, int8_t *to) {
        const int16x8_t a = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.x[0])), vmovn_s32(vcvtnq_s32_f32(x.x[1])));
        const int16x8_t b = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.x[2])), vmovn_s32(vcvtnq_s32_f32(x.x[3])));
        vst1q_s8(to, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
    }
    // Bytes travel as floats: moved, never computed with.
    static EI_FORCE_INLINE void transpose(const char *const *cells, size_t offset, char *to) {
        for (int group = 0; group < 8; group += 4) {
            for (int c = 0; c < 16; c += 4) {
                const auto load = [&](int i) {
                    return vreinterpretq_f32_s8(vld1q_s8(reinterpret_cast<const int8_t *>(cells[c + i] + offset + 4 * group)));
                };
                NeonLanes::transpose_4(load, reinterpret_cast<float *>(to + group * kGroupBytes) + c, kTileCells);
            }
        }
    }
    template <int R>
    static EI_FORCE_INLINE void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][kVectors]) {
        Multiply::template dots<R>(q, stride, k, sums);
    }
    static EI_FORCE_INLINE L::F to_float(Ints v) {
        return {{vcvtq_f32_s32(v.x[0]), vcvtq_f32_s32(v.x[1]), vcvtq_f32_s32(v.x[2]), vcvtq_f32_s32(v.x[3])}};
    }
    static EI_FORCE_INLINE L::F load_int8(const int8_t *from) {
        const int8x16_t v = vld1q_s8(from);
        const int16x8_t a = vmovl_s8(vget_low_s8(v)), b = vmovl_high_s8(v);
        return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))), vcvtq_f32_s32(vmovl_high_s16(a)), vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
                 vcvtq_f32_s32(vmovl_high_s16(b))}};
    }
    static EI_FORCE_INLINE L::F set_half(const uint16_t *from) {
        const float32x4_t d = vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(from)));
        return {{d, d, d, d}};
    }
};

}  // namespace
}  // namespace ei
#endif
