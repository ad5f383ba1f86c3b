// The root-mean-square norm of one row, in one order of sums whatever else is computed.
#ifndef EI_ONNXRUNTIME_NORM_H
#define EI_ONNXRUNTIME_NORM_H

#include <cmath>
#include <cstdint>

namespace ei {

// y = x * weight / sqrt(mean(x^2) + epsilon) over n elements. With a skip, x + skip is normalized and also written to `sum`, which may be
// x or y; without, both are null.
//
// Squares are summed in 16 lanes of single precision, so that compilers may use vectors without another order, and the lanes in double.
static inline void normalize_row(const float *x, const float *skip, const float *weight, float epsilon, int64_t n, float *sum, float *y) {
    if (skip != nullptr) {
        for (int64_t i = 0; i < n; ++i) sum[i] = x[i] + skip[i];
        x = sum;
    }
    float lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int l = 0; l < 16; ++l) lanes[l] += x[i + l] * x[i + l];
    }
    for (int l = 0; i + l < n; ++l) lanes[l] += x[i + l] * x[i + l];
    double total = 0.0;
    for (int l = 0; l < 16; ++l) total += static_cast<double>(lanes[l]);
    const float scale = 1.0f / std::sqrt(static_cast<float>(total / static_cast<double>(n)) + epsilon);
    for (int64_t k = 0; k < n; ++k) y[k] = x[k] * scale * weight[k];
}

}  // namespace ei
#endif
