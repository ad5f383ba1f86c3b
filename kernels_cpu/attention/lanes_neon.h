// Sixteen lanes as four registers.
#ifndef EI_ATTENTION_LANES_NEON_H
#define EI_ATTENTION_LANES_NEON_H

#include <arm_neon.h>

#include <cmath>
#include <cstdint>

#include "core/compiler.h"
#include "core/exponential.h"

namespace ei {
namespace {

struct NeonLanes {
    struct F {
        float32x4_t x[4];
    };
    // 6 x 4 registers of sums, 4 of keys or values and one of queries or weights: 29 of 32.
    static constexpr int kVectors = 1;

    static EI_FORCE_INLINE F set(float value) {
        const float32x4_t v = vdupq_n_f32(value);
        return {{v, v, v, v}};
    }
    static EI_FORCE_INLINE F load(const float *from) {
        return {{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
    }
    static EI_FORCE_INLINE void store(float *to, F v) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, v.x[i]);
    }
    static EI_FORCE_INLINE float32x4_t load_half_4(const uint16_t *from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
    static EI_FORCE_INLINE F load_half(const uint16_t *from) {
        return {{load_half_4(from), load_half_4(from + 4), load_half_4(from + 8), load_half_4(from + 12)}};
    }
    static EI_FORCE_INLINE F add(F a, F b) {
        return {{vaddq_f32(a.x[0], b.x[0]), vaddq_f32(a.x[1], b.x[1]), vaddq_f32(a.x[2], b.x[2]), vaddq_f32(a.x[3], b.x[3])}};
    }
    static EI_FORCE_INLINE F sub(F a, F b) {
        return {{vsubq_f32(a.x[0], b.x[0]), vsubq_f32(a.x[1], b.x[1]), vsubq_f32(a.x[2], b.x[2]), vsubq_f32(a.x[3], b.x[3])}};
    }
    static EI_FORCE_INLINE F mul(F a, F b) {
        return {{vmulq_f32(a.x[0], b.x[0]), vmulq_f32(a.x[1], b.x[1]), vmulq_f32(a.x[2], b.x[2]), vmulq_f32(a.x[3], b.x[3])}};
    }
    static EI_FORCE_INLINE F div(F a, F b) {
        return {{vdivq_f32(a.x[0], b.x[0]), vdivq_f32(a.x[1], b.x[1]), vdivq_f32(a.x[2], b.x[2]), vdivq_f32(a.x[3], b.x[3])}};
    }
    static EI_FORCE_INLINE F where_negative(F x, F yes, F no) {
        F out;
        EI_UNROLL
        for (int i = 0; i < 4; ++i) out.x[i] = vbslq_f32(vcltzq_f32(x.x[i]), yes.x[i], no.x[i]);
        return out;
    }
    static EI_FORCE_INLINE F fma(F a, F b, F c) {
        return {{vfmaq_f32(c.x[0], a.x[0], b.x[0]), vfmaq_f32(c.x[1], a.x[1], b.x[1]), vfmaq_f32(c.x[2], a.x[2], b.x[2]),
                 vfmaq_f32(c.x[3], a.x[3], b.x[3])}};
    }
    // a > b ? a : b, so that a NaN in `a` is passed over, as in the reference; FMAX would spread it.
    static EI_FORCE_INLINE float32x4_t max_4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static EI_FORCE_INLINE F max(F a, F b) {
        return {{max_4(a.x[0], b.x[0]), max_4(a.x[1], b.x[1]), max_4(a.x[2], b.x[2]), max_4(a.x[3], b.x[3])}};
    }
    static EI_FORCE_INLINE float32x4_t masked_4(float32x4_t s, float32x4_t mask) {
        const float32x4_t low = vdupq_n_f32(-HUGE_VALF);
        return vbslq_f32(vceqq_f32(mask, low), low, s);
    }
    static EI_FORCE_INLINE F masked(F s, F mask) {
        return {{masked_4(s.x[0], mask.x[0]), masked_4(s.x[1], mask.x[1]), masked_4(s.x[2], mask.x[2]), masked_4(s.x[3], mask.x[3])}};
    }
    static EI_FORCE_INLINE float32x4_t where_nonzero_4(float32x4_t p, float32x4_t v) {
        return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vceqzq_f32(p)));
    }
    static EI_FORCE_INLINE F where_nonzero(F p, F v) {
        return {{where_nonzero_4(p.x[0], v.x[0]), where_nonzero_4(p.x[1], v.x[1]), where_nonzero_4(p.x[2], v.x[2]),
                 where_nonzero_4(p.x[3], v.x[3])}};
    }
    static EI_FORCE_INLINE float32x4_t or_unordered_4(float32x4_t bad, float32x4_t s) {
        return vbslq_f32(vceqq_f32(s, s), bad, vdupq_n_f32(1.0f));
    }
    static EI_FORCE_INLINE F or_unordered(F bad, F s) {
        return {{or_unordered_4(bad.x[0], s.x[0]), or_unordered_4(bad.x[1], s.x[1]), or_unordered_4(bad.x[2], s.x[2]),
                 or_unordered_4(bad.x[3], s.x[3])}};
    }
    static EI_FORCE_INLINE bool any(F v) {
        uint32x4_t zero = vceqzq_f32(v.x[0]);
        EI_UNROLL
        for (int i = 1; i < 4; ++i) zero = vandq_u32(zero, vceqzq_f32(v.x[i]));
        return vminvq_u32(zero) == 0;
    }
    static EI_FORCE_INLINE float reduce_max(F v) {
        return vmaxvq_f32(vmaxq_f32(vmaxq_f32(v.x[0], v.x[1]), vmaxq_f32(v.x[2], v.x[3])));
    }
    static EI_FORCE_INLINE float32x4_t weight_4(float32x4_t x) {
        const uint32x4_t keep = vcgeq_f32(x, vdupq_n_f32(kExpLowest));
        const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(kLog2E)));
        const float32x4_t r = vfmaq_f32(vfmaq_f32(x, n, vdupq_n_f32(-kLn2High)), n, vdupq_n_f32(-kLn2Low));
        float32x4_t p = vdupq_n_f32(kExp[0]);
        EI_UNROLL
        for (int c = 1; c < 6; ++c) p = vfmaq_f32(vdupq_n_f32(kExp[c]), p, r);
        p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0f)), p, vmulq_f32(r, r));
        const int32x4_t scaled = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vcvtnq_s32_f32(n), 23));
        return vreinterpretq_f32_u32(vandq_u32(keep, vorrq_u32(vreinterpretq_u32_s32(scaled), vdupq_n_u32(1))));
    }
    static EI_FORCE_INLINE F weight(F x) { return {{weight_4(x.x[0]), weight_4(x.x[1]), weight_4(x.x[2]), weight_4(x.x[3])}}; }
    using Sum = int64x2_t;
    static EI_FORCE_INLINE Sum no_integers() { return vdupq_n_s64(0); }
    static EI_FORCE_INLINE Sum add_integers(Sum sum, F v) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) sum = vpadalq_s32(sum, vcvtnq_s32_f32(v.x[i]));
        return sum;
    }
    static EI_FORCE_INLINE int64_t total(Sum sum) { return vaddvq_s64(sum); }
    // Bit i: p[i] * v_max[i] >= least. Each lane of ones keeps one bit of its place.
    static EI_FORCE_INLINE uint64_t reaches_64(const float *p, const float *v_max, float least) {
        const uint32_t places[4] = {1, 2, 4, 8};
        const uint32x4_t place = vld1q_u32(places);
        uint64_t bits = 0;
        EI_UNROLL
        for (int i = 0; i < 64; i += 4) {
            const uint32x4_t reached = vcgeq_f32(vmulq_f32(vld1q_f32(p + i), vld1q_f32(v_max + i)), vdupq_n_f32(least));
            bits |= uint64_t{vaddvq_u32(vandq_u32(reached, place))} << i;
        }
        return bits;
    }
    // Comparisons give bytes of ones; each keeps one bit of its place, and adding neighbours three times gathers eight.
    static EI_FORCE_INLINE uint64_t differs_64(const uint16_t *from, uint16_t value) {
        const uint8x16_t places = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
        const uint16x8_t v = vdupq_n_u16(value);
        uint8x16_t bits[4];
        EI_UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint16x8_t a = vceqq_u16(vld1q_u16(from + 16 * i), v), b = vceqq_u16(vld1q_u16(from + 16 * i + 8), v);
            bits[i] = vbicq_u8(places, vcombine_u8(vmovn_u16(a), vmovn_u16(b)));
        }
        uint8x16_t gathered = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
        gathered = vpaddq_u8(gathered, gathered);
        return vgetq_lane_u64(vreinterpretq_u64_u8(gathered), 0);
    }
    static EI_FORCE_INLINE uint16_t largest_half(const uint16_t *from, int64_t n) {
        uint16x8_t a = vdupq_n_u16(0), b = a;
        for (int64_t i = 0; i < n; i += 16) {
            a = vmaxq_u16(a, vandq_u16(vld1q_u16(from + i), vdupq_n_u16(0x7fff)));
            b = vmaxq_u16(b, vandq_u16(vld1q_u16(from + i + 8), vdupq_n_u16(0x7fff)));
        }
        return vmaxvq_u16(vmaxq_u16(a, b));
    }
    // load(i): 4 elements of cell i. Four at a time, so that a row of 16 registers is never needed.
    template <class Load>
    static EI_FORCE_INLINE void transpose_4(Load load, float *to, int64_t stride) {
        float32x4_t r[4], t[4];
        EI_UNROLL
        for (int i = 0; i < 4; ++i) r[i] = load(i);
        EI_UNROLL
        for (int i = 0; i < 2; ++i) {
            t[i] = vtrn1q_f32(r[2 * i], r[2 * i + 1]);      // elements 0 and 2 of two cells
            t[i + 2] = vtrn2q_f32(r[2 * i], r[2 * i + 1]);  // elements 1 and 3
        }
        EI_UNROLL
        for (int i = 0; i < 2; ++i) {
            const float64x2_t a = vreinterpretq_f64_f32(t[2 * i]), b = vreinterpretq_f64_f32(t[2 * i + 1]);
            vst1q_f32(to + i * stride, vreinterpretq_f32_f64(vtrn1q_f64(a, b)));
            vst1q_f32(to + (i + 2) * stride, vreinterpretq_f32_f64(vtrn2q_f64(a, b)));
        }
    }
    static EI_FORCE_INLINE void transpose_half(const char *const *cells, int64_t at, float *to, int64_t stride) {
        for (int d = 0; d < 16; d += 4) {
            for (int c = 0; c < 16; c += 4) {
                const auto load = [&](int i) { return load_half_4(reinterpret_cast<const uint16_t *>(cells[c + i]) + at + d); };
                transpose_4(load, to + d * stride + c, stride);
            }
        }
    }
};

}  // namespace
}  // namespace ei
#endif
