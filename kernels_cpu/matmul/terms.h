// x as a sum of two terms that 8 bits hold: what products with blocks of 32 inputs round x to, and what that leaves. Two products with
// them, added up, are one with inputs of 15 bits, for weights that are worth it; for one token they read the weight once, as one would.
// The terms of up to four columns share one group of eight: first all the first terms, then the second ones.
#ifndef EI_MATMUL_TERMS_H
#define EI_MATMUL_TERMS_H

#include <algorithm>
#include <cmath>

#include "core/kernel.h"

namespace ei {

constexpr int kTermBlock = 32;

// Columns of x, and of the result, in one group.
constexpr int columns_in_group(int n_terms) { return kGroupColumns / n_terms; }

// Rounding what `rounded` holds gives the same again but for a last bit of its scale, so which bits of x are in which term is of no
// account. A block of numbers too small or not finite is all in `rounded`.
inline void split_block(const float *x, float *rounded, float *rest) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number, ties to even
    float most = 0.0f;
    for (int i = 0; i < kTermBlock; ++i) most = std::max(most, std::fabs(x[i]));
    const bool plain = most > 0x1p-100f && most < 0x1p+120f;
    const float step = plain ? most / 127.0f : 0.0f, per_step = plain ? 127.0f / most : 0.0f;
    for (int i = 0; i < kTermBlock; ++i) {
        const float nearest = step * ((x[i] * per_step + kMagic) - kMagic);
        rounded[i] = plain ? nearest : x[i];
        rest[i] = plain ? x[i] - nearest : 0.0f;
    }
}

// One block of activations of n columns of x, as `args` would be for one term.
inline void quantize_terms(const Kernel &kernel, QuantizeArgs args, int n_terms) {
    if (n_terms == 1) return kernel.quantize(args);
    alignas(64) float terms[kGroupColumns][kTermBlock];
    const float *columns[kGroupColumns];
    for (int c = 0; c < args.n_columns; ++c) {
        split_block(args.columns[c], terms[c], terms[args.n_columns + c]);
        columns[c] = terms[c], columns[args.n_columns + c] = terms[args.n_columns + c];
    }
    args.columns = columns, args.n_columns *= 2;
    kernel.quantize(args);
}

// One panel with a group of n columns of x, as `args` would be for one term.
inline void multiply_terms(const Kernel &kernel, MatmulArgs args, int n_terms) {
    if (n_terms == 1) return kernel.matmul(args);
    alignas(64) float rest[kGroupColumns / 2][kPanelRows];
    float *out[kGroupColumns];
    const int n = args.n_columns;
    for (int c = 0; c < n; ++c) out[c] = args.out[c], out[n + c] = rest[c];
    args.out = out, args.n_columns *= 2;
    kernel.matmul(args);
    for (int c = 0; c < n; ++c) {
        for (int row = 0; row < args.n_rows; ++row) out[c][row] += rest[c][row];
    }
}

}  // namespace ei
#endif
