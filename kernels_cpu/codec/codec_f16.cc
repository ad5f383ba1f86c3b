// IEEE half precision, rounded to even; 65520 and above are infinite, NaN stays NaN.
#include "codec/codec.h"

namespace ei {
namespace {

bool encode(const float *x, const float *, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; ++i) {
        const uint16_t half = float_to_half(x[i]);
        std::memcpy(out + 2 * i, &half, sizeof half);
    }
    return true;
}

void decode(const uint8_t *in, int64_t n, float *x) {
    for (int64_t i = 0; i < n; ++i) {
        uint16_t half;
        std::memcpy(&half, in + 2 * i, sizeof half);
        x[i] = half_to_float(half);
    }
}

}  // namespace

extern const Codec EI_CODEC(f16);
const Codec EI_CODEC(f16){EI_FORMAT_F16, 1, 2, encode, decode};

}  // namespace ei
