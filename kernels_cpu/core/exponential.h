// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; ln 2 in two parts so that n * high is exact; exp(r) = 1 + r + r^2 P(r) with
// the polynomial of Cephes' expf (error below 2 units in the last place).
#ifndef EI_CORE_EXPONENTIAL_H
#define EI_CORE_EXPONENTIAL_H

#include <cmath>

#include "core/half.h"

namespace ei {

static constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
static constexpr float kExp[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
// Below this a weight is 0: exp(-80) is 2^-115 of the largest.
static constexpr float kExpLowest = -80.0f;

// exp(x) of one x <= 0, the definition of what vectors compute.
static inline float exponential(float x) {
    if (!(x >= kExpLowest)) return 0.0f;
    const float n = std::nearbyint(x * kLog2E);
    const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
    float p = kExp[0];
    for (int c = 1; c < 6; ++c) p = std::fma(p, r, kExp[c]);
    p = std::fma(p, r * r, r + 1.0f);
    return bits_float(float_bits(p) + (static_cast<uint32_t>(static_cast<int32_t>(n)) << 23));
}

}  // namespace ei
#endif
