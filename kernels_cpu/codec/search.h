// The search for scales of least weighted squared error, for formats that have no closed rule: candidates for the scale give quants, and
// for given quants the best scale is a least-squares fit (the method of llama.cpp's K-quants, pull request 1684). What is minimised is
// simply the sum of weight * error^2. edgeinfer/kernels/formats/search.py and super_block.py say the same in NumPy.
#ifndef EI_CODEC_SEARCH_H
#define EI_CODEC_SEARCH_H

#include <cmath>

#include "codec/codec.h"
#include "core/compiler.h"

namespace ei {
namespace EI_CODEC_ISA {

// The sum of kN terms, a power of two: the second half is added to the first until one is left, an order that suits vectors. Destroys them.
template <int kN>
static inline float total(float (&terms)[kN]) {
    for (int half = kN / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) terms[i] += terms[i + half];
    }
    return terms[0];
}

// x = scale * q - min, scale at least 0, and min too unless it is free.
struct FloatScaleMin {
    float scale, min;
};

// A candidate stretches the range of x over kMax + (first + c) * pace steps, c from 0 to n_candidates - 1.
struct Offsets {
    int first, n_candidates;
    float pace;
};

template <int kMax, bool kFreeMin = false>
static inline FloatScaleMin fit_scale_min(const float *x, const float *w, const Offsets &offsets) {
    const Extremes ends = extremes<32>(x, peaks<32>(x));
    const float low = kFreeMin ? ends.least : minimum(ends.least, 0.0f), spread = ends.greatest - low;
    if (spread < kTinySpread) return {0.0f, 0.0f - low};
    float above[32], t[32], u[32], v[32];
    for (int i = 0; i < 32; ++i) above[i] = x[i] - low, t[i] = w[i], u[i] = w[i] * x[i];
    const float sum_w = total(t), sum_x = total(u);
    float scale = spread / static_cast<float>(kMax), offset = low, best = HUGE_VALF;
    for (int c = 0; c < offsets.n_candidates; ++c) {
        const float inverse = (static_cast<float>(kMax) + static_cast<float>(offsets.first + c) * offsets.pace) / spread;
        float q[32];
        for (int i = 0; i < 32; ++i) {
            q[i] = minimum(nearest(above[i] * inverse), static_cast<float>(kMax));
            t[i] = w[i] * q[i];
            u[i] = t[i] * q[i];
            v[i] = t[i] * x[i];
        }
        const float sum_q = total(t), sum_qq = total(u), sum_qx = total(v);
        const float determinant = sum_w * sum_qq - sum_q * sum_q;
        if (!(determinant > 0.0f)) continue;
        float a = (sum_w * sum_qx - sum_q * sum_x) / determinant, b = (sum_qq * sum_x - sum_q * sum_qx) / determinant;
        if (!kFreeMin && b > 0.0f) a = sum_qx / sum_qq, b = 0.0f;
        for (int i = 0; i < 32; ++i) {
            const float error = a * q[i] + b - x[i];
            t[i] = w[i] * error * error;
        }
        const float error = total(t);
        if (a > 0.0f && error < best) best = error, scale = a, offset = b;
    }
    return {scale, 0.0f - offset};
}

// The scale, of either sign, for x = scale * quantize(x / scale). A candidate takes the x of greatest magnitude to each of `inverses`; the
// first stands where no x has weight.
template <int kN, int kCandidates, class Quantize>
static inline float fit_scale(const float *x, const float *w, const float (&inverses)[kCandidates], Quantize quantize) {
    const float peak = farthest<kN>(x);
    if (maximum(peak, -peak) < kTinySpread) return 0.0f;
    float scale = peak / inverses[0], best = 0.0f;
    for (int c = 0; c < kCandidates; ++c) {
        const float inverse = inverses[c] / peak;
        float t[kN], u[kN];
        EI_ROLLED  // GCC would unroll 16 rounds before it can make vectors of them
        for (int i = 0; i < kN; ++i) {
            const float q = quantize(x[i] * inverse), wq = w[i] * q;
            t[i] = wq * q;
            u[i] = wq * x[i];
        }
        const float sum_qq = total(t), sum_qx = total(u);
        if (!(sum_qq > 0.0f)) continue;
        const float a = sum_qx / sum_qq, gain = a * sum_qx;  // how much of sum(w x^2) this leaves out of the error
        if (gain > best) best = gain, scale = a;
    }
    return scale;
}

// The order of `total` for terms kFirst, kFirst + kStep, ..., kCount of them, of kLanes blocks and of two sums at once: a tree that is walked
// from its leaves, so that no more than a few sums are under way. term(i, a, b) gives the terms.
template <int kFirst, int kStep, int kCount, int kLanes, class Term>
EI_INLINE void totals(const Term &term, float (&a)[kLanes], float (&b)[kLanes]) {
    if constexpr (kCount == 1) {
        term(kFirst, a, b);
    } else {
        float c[kLanes], d[kLanes];
        totals<kFirst, 2 * kStep, kCount / 2>(term, a, b);
        totals<kFirst + kStep, 2 * kStep, kCount / 2>(term, c, d);
        EI_ROLLED
        for (int lane = 0; lane < kLanes; ++lane) a[lane] += c[lane], b[lane] += d[lane];
    }
}

// `fit_scale` of kLanes blocks of kN at once, x[i][lane]: sums run over i, so that vectors need not be added up across. The same bits.
template <int kN, int kLanes, int kCandidates, class Quantize>
static inline void fit_scales(const float (&x)[kN][kLanes], const float (&w)[kN][kLanes], const float (&inverses)[kCandidates],
                              Quantize quantize, float (&scale)[kLanes]) {
    float peak[kLanes], safe[kLanes], best[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        float column[kN];
        for (int i = 0; i < kN; ++i) column[i] = x[i][lane];
        peak[lane] = farthest<kN>(column);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
        safe[lane] = maximum(peak[lane], -peak[lane]) < kTinySpread ? 1.0f : peak[lane];
        scale[lane] = safe[lane] / inverses[0], best[lane] = 0.0f;
    }
    for (int c = 0; c < kCandidates; ++c) {
        float inverse[kLanes], squares[kLanes], products[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) inverse[lane] = inverses[c] / safe[lane];
        const auto term = [&](int i, float(&qq)[kLanes], float(&qx)[kLanes]) {
            EI_ROLLED
            for (int lane = 0; lane < kLanes; ++lane) {
                const float q = quantize(x[i][lane] * inverse[lane]), wq = w[i][lane] * q;
                qq[lane] = wq * q;
                qx[lane] = wq * x[i][lane];
            }
        };
        totals<0, 1, kN>(term, squares, products);
        for (int lane = 0; lane < kLanes; ++lane) {
            const float sum_qq = squares[lane], sum_qx = products[lane];
            const float a = sum_qx / (sum_qq > 0.0f ? sum_qq : 1.0f), gain = sum_qq > 0.0f ? a * sum_qx : 0.0f;
            scale[lane] = gain > best[lane] ? a : scale[lane];
            best[lane] = gain > best[lane] ? gain : best[lane];
        }
    }
    for (int lane = 0; lane < kLanes; ++lane) scale[lane] = maximum(peak[lane], -peak[lane]) < kTinySpread ? 0.0f : scale[lane];
}

// ---- Formats of 32 with one scale, and a min or none, when weights are given.

// Candidates for a symmetric scale, tenths of steps: the x of greatest magnitude goes to about either end of the range.
template <int kHalf>
struct BothEnds {
    static constexpr int kDown = kHalf == 8 ? 11 : 12, kUp = 8;
    float values[kDown + kUp];
    constexpr BothEnds() : values() {
        for (int i = 0; i < kDown; ++i) values[i] = static_cast<float>(-10 * kHalf - 10 + 2 * i) * 0.1f;
        for (int i = 0; i < kUp; ++i) values[kDown + i] = static_cast<float>(10 * kHalf - 16 + 2 * i) * 0.1f;
    }
};

// d of x = d * (q - kHalf), in half precision, and the q of 0 to 2 kHalf - 1 that suit.
template <int kHalf>
static inline uint16_t weighted_symmetric(const float *x, const float *w, uint8_t (&q)[32]) {
    constexpr BothEnds<kHalf> ends;
    const auto quantize = [](float scaled) { return clamped(scaled, static_cast<float>(-kHalf), static_cast<float>(kHalf - 1)); };
    const uint16_t half = float_to_half(fit_scale<32>(x, w, ends.values, quantize));
    const float d = half_to_float(half), divisor = d == 0.0f ? 1.0f : d;
    for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>((d == 0.0f ? 0.0f : quantize(x[i] / divisor)) + static_cast<float>(kHalf));
    return half;
}

// d and m of x = d * q + m, in half precision, and the q of 0 to kMax that suit.
template <int kMax>
static inline void weighted_affine(const float *x, const float *w, const Offsets &offsets, uint16_t &d, uint16_t &m, uint8_t (&q)[32]) {
    const FloatScaleMin found = fit_scale_min<kMax, true>(x, w, offsets);
    d = float_to_half(found.scale), m = float_to_half(0.0f - found.min);
    const float step = half_to_float(d), least = half_to_float(m), divisor = step == 0.0f ? 1.0f : step;
    const float top = step == 0.0f ? 0.0f : static_cast<float>(kMax);
    for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(clamped((x[i] - least) / divisor, 0.0f, top));
}

// ---- Q4_K and Q5_K: eight sub-blocks of 32, each with a scale and a min of 6 bits.

struct SuperBlock {
    uint16_t d, dmin;
    uint8_t scales[8], mins[8], quants[256];
};

// Eight scales of at least 0 as a half times integers below 64, which are kept as floats; all 0 where the half is. The greatest becomes one
// of the highest integers: that for which all are nearest, by the weight of each.
struct SixBits {
    uint16_t half;
    float d, scales[8];
    SixBits(const float (&values)[8], const float (&weights)[8]) : half(0), d(0.0f), scales() {
        float greatest = 0.0f, best = HUGE_VALF;
        for (float value : values) greatest = maximum(value, greatest);
        for (int highest = 63; highest > 55; --highest) {
            const uint16_t candidate = float_to_half(greatest / static_cast<float>(highest));
            if (highest == 63) half = candidate;  // stands if it is infinite: then all are
            const float step = half_to_float(candidate);
            float scaled[8], t[8];
            for (int s = 0; s < 8; ++s) {
                scaled[s] = step == 0.0f ? 0.0f : clamped(values[s] / step, 0.0f, 63.0f);
                const float error = step * scaled[s] - values[s];
                t[s] = weights[s] * error * error;
            }
            const float error = total(t);
            if (!(error < best)) continue;
            best = error, half = candidate, d = step;
            std::memcpy(scales, scaled, sizeof scales);
        }
    }
};

// What quants of a sub-block are made with: x = step * q - below. Where the step is 0, so is every q.
template <int kMax>
struct Grid {
    float step, below, divisor, top;
    Grid(float step_, float below_)
        : step(step_), below(below_), divisor(step_ == 0.0f ? 1.0f : step_), top(step_ == 0.0f ? 0.0f : static_cast<float>(kMax)) {}
    float quant(float x) const { return clamped((x + below) / divisor, 0.0f, top); }
    float squared_error(const float *x, const float *w) const {
        float t[32];
        for (int i = 0; i < 32; ++i) {
            const float error = step * quant(x[i]) - below - x[i];
            t[i] = w[i] * error * error;
        }
        return total(t);
    }
};

// Best scale and min of each sub-block; of the nine pairs of 6-bit integers around them, that of least error, since rounding one up is
// often made good by rounding the other down; then the quants that suit. False where d or dmin is beyond half precision.
template <int kMax>
static inline bool encode_super_block(const float *x, const float *w, const Offsets &offsets, SuperBlock &out) {
    float ones[32], scale[8], min[8], weight[8];
    for (float &one : ones) one = 1.0f;
    for (int s = 0; s < 8; ++s) {
        const FloatScaleMin found = fit_scale_min<kMax>(x + 32 * s, w ? w + 32 * s : ones, offsets);
        scale[s] = found.scale, min[s] = found.min;
        float t[32];
        std::memcpy(t, w ? w + 32 * s : ones, sizeof t);
        weight[s] = total(t);
    }
    const SixBits scales(scale, weight), mins(min, weight);
    out.d = scales.half, out.dmin = mins.half;
    if (!finite_half(out.d) || !finite_half(out.dmin)) return false;
    for (int s = 0; s < 8; ++s) {
        const float a = scales.scales[s], b = mins.scales[s];
        const float near_scales[3] = {a, maximum(a - 1.0f, 0.0f), minimum(a + 1.0f, 63.0f)};
        const float near_mins[3] = {b, maximum(b - 1.0f, 0.0f), minimum(b + 1.0f, 63.0f)};
        float best = HUGE_VALF, best_scale = a, best_min = b;
        for (float near_scale : near_scales) {
            for (float near_min : near_mins) {
                const Grid<kMax> grid(scales.d * near_scale, mins.d * near_min);
                const float error = grid.squared_error(x + 32 * s, w ? w + 32 * s : ones);
                if (error < best) best = error, best_scale = near_scale, best_min = near_min;
            }
        }
        out.scales[s] = static_cast<uint8_t>(best_scale), out.mins[s] = static_cast<uint8_t>(best_min);
        const Grid<kMax> grid(scales.d * best_scale, mins.d * best_min);
        for (int i = 32 * s; i < 32 * s + 32; ++i) out.quants[i] = static_cast<uint8_t>(grid.quant(x[i]));
    }
    return true;
}

static inline void decode_super_block(const SuperBlock &in, float *x) {
    const float d = half_to_float(in.d), dmin = half_to_float(in.dmin);
    for (int s = 0; s < 8; ++s) {
        const float step = d * static_cast<float>(in.scales[s]), below = dmin * static_cast<float>(in.mins[s]);
        for (int i = 0; i < 32; ++i) x[32 * s + i] = step * static_cast<float>(in.quants[32 * s + i]) - below;
    }
}

// The first four scales and mins in the low six bits of bytes 0-3 and 4-7, the others as nibbles in bytes 8-11 with their high bits above
// the first.
static inline void pack_scales(const SuperBlock &in, uint8_t (&bytes)[12]) {
    for (int s = 0; s < 4; ++s) {
        bytes[s] = static_cast<uint8_t>(in.scales[s] | in.scales[s + 4] >> 4 << 6);
        bytes[s + 4] = static_cast<uint8_t>(in.mins[s] | in.mins[s + 4] >> 4 << 6);
        bytes[s + 8] = static_cast<uint8_t>((in.scales[s + 4] & 15) | (in.mins[s + 4] & 15) << 4);
    }
}
static inline void unpack_scales(const uint8_t (&bytes)[12], SuperBlock &out) {
    for (int s = 0; s < 4; ++s) {
        out.scales[s] = bytes[s] & 63, out.mins[s] = bytes[s + 4] & 63;
        out.scales[s + 4] = static_cast<uint8_t>((bytes[s + 8] & 15) | bytes[s] >> 6 << 4);
        out.mins[s + 4] = static_cast<uint8_t>(bytes[s + 8] >> 4 | bytes[s + 4] >> 6 << 4);
    }
}

}  // namespace EI_CODEC_ISA
}  // namespace ei
#endif
