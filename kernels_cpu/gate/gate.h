// activation(gate) * up, both activations as x * sigmoid(z) with sigmoid from the exponential of attention's weights:
//
//   silu  z = x
//   gelu  z = 2 sqrt(2 / pi) * (x + 0.044715 x^3), the usual approximation by a hyperbolic tangent
//
//   e = exp(-|z|), 0 below exp(-80); sigmoid(z) = (z < 0 ? e : 1) / (1 + e)
//
// Every element by itself, in the same operations in every instruction set and at every place of a vector. Written once over 16 lanes
// (`L`, attention/lanes_<isa>.h).
#ifndef EI_GATE_GATE_H
#define EI_GATE_GATE_H

#include "core/kernel.h"

namespace ei {
namespace {

struct Silu {
    template <class L>
    static typename L::F argument(typename L::F x) {
        return x;
    }
};

struct Gelu {
    template <class L>
    static typename L::F argument(typename L::F x) {
        constexpr float kScale = 1.5957691216057308f, kCubic = 0.044715f;  // 2 sqrt(2 / pi)
        const typename L::F cube = L::mul(L::mul(x, x), x);
        return L::mul(L::set(kScale), L::fma(L::set(kCubic), cube, x));
    }
};

template <class L, class Activation>
typename L::F gate_lanes(typename L::F x, typename L::F up) {
    const typename L::F z = Activation::template argument<L>(x);
    const typename L::F zero = L::set(0.0f), e = L::weight(L::sub(zero, L::max(z, L::sub(zero, z))));
    const typename L::F sigmoid = L::div(L::where_negative(z, e, L::set(1.0f)), L::add(L::set(1.0f), e));
    return L::mul(L::mul(x, sigmoid), up);
}

template <class L, class Activation>
void gate(const float *x, const float *up, float *out, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) L::store(out + i, gate_lanes<L, Activation>(L::load(x + i), L::load(up + i)));
    if (i == n) return;
    // What is left, in a vector of its own.
    float last[3][16] = {};
    for (int64_t j = i; j < n; ++j) last[0][j - i] = x[j], last[1][j - i] = up[j];
    L::store(last[2], gate_lanes<L, Activation>(L::load(last[0]), L::load(last[1])));
    for (int64_t j = i; j < n; ++j) out[j] = last[2][j - i];
}

}  // namespace
}  // namespace ei
#endif
