#include "onnxruntime/rope.h"

#include <cstring>

namespace ei {

void rotate(const float *x, int64_t n_heads, int64_t head_dim, const float *cos, const float *sin, int64_t half, float *out) {
    for (int64_t h = 0; h < n_heads; ++h, x += head_dim, out += head_dim) {
        for (int64_t i = 0; i < half; ++i) {
            const float a = x[i], b = x[i + half];
            out[i] = a * cos[i] - b * sin[i];
            out[i + half] = b * cos[i] + a * sin[i];
        }
        std::memcpy(out + 2 * half, x + 2 * half, static_cast<size_t>(head_dim - 2 * half) * sizeof(float));
    }
}

}  // namespace ei
