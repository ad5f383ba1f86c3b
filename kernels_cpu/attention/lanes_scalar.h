// Sixteen lanes as an array: the definition of what the vector versions compute.
#ifndef EI_ATTENTION_LANES_SCALAR_H
#define EI_ATTENTION_LANES_SCALAR_H

#include <cmath>
#include <cstdint>

#include "core/exponential.h"
#include "core/half.h"

namespace ei {
namespace {

struct ScalarLanes {
    struct F {
        float x[16];
    };
    static constexpr int kVectors = 1;

    template <class Each>
    static F each(Each value) {
        F out;
        for (int i = 0; i < 16; ++i) out.x[i] = value(i);
        return out;
    }
    static F set(float value) {
        return each([&](int) { return value; });
    }
    static F load(const float *from) {
        return each([&](int i) { return from[i]; });
    }
    static void store(float *to, F v) {
        for (int i = 0; i < 16; ++i) to[i] = v.x[i];
    }
    static F load_half(const uint16_t *from) {
        return each([&](int i) { return half_to_float(from[i]); });
    }
    static F add(F a, F b) {
        return each([&](int i) { return a.x[i] + b.x[i]; });
    }
    static F sub(F a, F b) {
        return each([&](int i) { return a.x[i] - b.x[i]; });
    }
    static F mul(F a, F b) {
        return each([&](int i) { return a.x[i] * b.x[i]; });
    }
    static F div(F a, F b) {
        return each([&](int i) { return a.x[i] / b.x[i]; });
    }
    static F where_negative(F x, F yes, F no) {
        return each([&](int i) { return x.x[i] < 0.0f ? yes.x[i] : no.x[i]; });
    }
    static F fma(F a, F b, F c) {
        return each([&](int i) { return std::fma(a.x[i], b.x[i], c.x[i]); });
    }
    static F max(F a, F b) {
        return each([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
    }
    // Minus infinity where the mask is.
    static F masked(F s, F mask) {
        return each([&](int i) { return mask.x[i] == -HUGE_VALF ? -HUGE_VALF : s.x[i]; });
    }
    static F where_nonzero(F p, F v) {
        return each([&](int i) { return p.x[i] != 0.0f ? v.x[i] : 0.0f; });
    }
    static F or_unordered(F bad, F s) {
        return each([&](int i) { return s.x[i] != s.x[i] ? 1.0f : bad.x[i]; });
    }
    static bool any(F v) {
        bool found = false;
        for (int i = 0; i < 16; ++i) found |= v.x[i] != 0.0f;
        return found;
    }
    static float reduce_max(F v) {
        float best = v.x[0];
        for (int i = 1; i < 16; ++i) best = v.x[i] > best ? v.x[i] : best;
        return best;
    }
    // exp of x <= 0 as a weight; see attention.h for the bit that is set.
    static F weight(F x) {
        return each([&](int i) {
            const float p = exponential(x.x[i]);
            return p == 0.0f ? p : bits_float(float_bits(p) | 1);
        });
    }
    // Sum of the lanes rounded to integers; each is at most 2^30 + 2^7.
    using Sum = int64_t;
    static Sum no_integers() { return 0; }
    static Sum add_integers(Sum sum, F v) {
        for (int i = 0; i < 16; ++i) sum += std::lrintf(v.x[i]);
        return sum;
    }
    static int64_t total(Sum sum) { return sum; }
    // Bit i: p[i] * v_max[i] >= least.
    static uint64_t reaches_64(const float *p, const float *v_max, float least) {
        uint64_t bits = 0;
        for (int i = 0; i < 64; ++i) bits |= uint64_t{p[i] * v_max[i] >= least} << i;
        return bits;
    }
    // Bit i: from[i] != value, as bits.
    static uint64_t differs_64(const uint16_t *from, uint16_t value) {
        uint64_t bits = 0;
        for (int i = 0; i < 64; ++i) bits |= uint64_t{from[i] != value} << i;
        return bits;
    }
    static uint16_t largest_half(const uint16_t *from, int64_t n) {
        uint16_t best = 0;
        for (int64_t i = 0; i < n; ++i) {
            const uint16_t magnitude = from[i] & 0x7fff;
            best = magnitude > best ? magnitude : best;
        }
        return best;
    }
    // Elements at .. at + 15 of 16 cells: to[d * stride + cell].
    static void transpose_half(const char *const *cells, int64_t at, float *to, int64_t stride) {
        for (int d = 0; d < 16; ++d) {
            for (int c = 0; c < 16; ++c) to[d * stride + c] = half_to_float(reinterpret_cast<const uint16_t *>(cells[c])[at + d]);
        }
    }
};

}  // namespace
}  // namespace ei
#endif
