// x as a sum of two terms that 8 bits hold: what products with blocks of 32 inputs would round x to, and what that leaves. Two products with
// them, added up, are one with inputs of 15 bits; for one token they read the weight once, as one would.
#ifndef EI_ONNXRUNTIME_TWO_TERMS_H
#define EI_ONNXRUNTIME_TWO_TERMS_H

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ei {

constexpr int64_t kTermBlock = 32;

// A row of n_cols, a multiple of 32. Rounding what `rounded` holds gives the same again but for a last bit of its scale, so which bits of
// x are in which term is of no account. A block of numbers too small or not finite is all in `rounded`.
inline void split_row(const float *x, int64_t n_cols, float *rounded, float *rest) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number, ties to even
    for (int64_t begin = 0; begin < n_cols; begin += kTermBlock) {
        float most = 0.0f;
        for (int64_t i = begin; i < begin + kTermBlock; ++i) most = std::max(most, std::fabs(x[i]));
        const bool plain = most > 0x1p-100f && most < 0x1p+120f;
        const float step = plain ? most / 127.0f : 0.0f, per_step = plain ? 127.0f / most : 0.0f;
        for (int64_t i = begin; i < begin + kTermBlock; ++i) {
            const float near = step * ((x[i] * per_step + kMagic) - kMagic);
            rounded[i] = plain ? near : x[i];
            rest[i] = plain ? x[i] - near : 0.0f;
        }
    }
}

}  // namespace ei
#endif
