// Rotary positions: the pairs (x[i], x[i + half]) of each head turned by the angle of the token's position.
#ifndef EI_ONNXRUNTIME_ROPE_H
#define EI_ONNXRUNTIME_ROPE_H

#include <cstdint>

namespace ei {

// n_heads heads of head_dim at `x` to `out`; cos and sin have `half` values, and what lies behind the first 2 * half elements of a head
// stays as it is. half = 0 copies.
void rotate(const float *x, int64_t n_heads, int64_t head_dim, const float *cos, const float *sin, int64_t half, float *out);

}  // namespace ei
#endif
