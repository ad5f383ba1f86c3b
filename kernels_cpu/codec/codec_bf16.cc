// The upper half of a float, rounded to even; NaN keeps its high bits and becomes quiet.
#include "codec/codec.h"

namespace ei {
namespace {

bool encode(const float *x, const float *, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = float_bits(x[i]), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        const uint16_t high = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : rounded);
        std::memcpy(out + 2 * i, &high, sizeof high);
    }
    return true;
}

void decode(const uint8_t *in, int64_t n, float *x) {
    for (int64_t i = 0; i < n; ++i) {
        uint16_t high;
        std::memcpy(&high, in + 2 * i, sizeof high);
        x[i] = bits_float(uint32_t{high} << 16);
    }
}

}  // namespace

extern const Codec EI_CODEC(bf16);
const Codec EI_CODEC(bf16){EI_FORMAT_BF16, 1, 2, encode, decode};

}  // namespace ei
