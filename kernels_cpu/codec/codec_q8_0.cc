// x = d * q with q from -127 to 127; ties are rounded away from zero.
#include "codec/codec.h"

namespace ei {
namespace {

bool encode(const float *x, const float *, BlockQ8_0 &block) {
    const Peaks ends = peaks<32>(x);
    if (!ends.in_range()) return false;
    const uint32_t below = ends.below & 0x7fffffff, above = ends.above & 0x7fffffff;
    const float peak = bits_float(below > above ? below : above), d = peak / 127.0f, inverse = reciprocal(d);
    block.d = float_to_half(d);
    for (int i = 0; i < 32; ++i) {
        const float scaled = x[i] * inverse;
        const int32_t whole = static_cast<int32_t>(scaled), half = static_cast<int32_t>((scaled - static_cast<float>(whole)) * 2.0f);
        block.qs[i] = static_cast<int8_t>(whole + half);
    }
    return finite_half(block.d);
}

void decode(const BlockQ8_0 &block, float *x) {
    const float d = half_to_float(block.d);
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(block.qs[i]);
}

}  // namespace

extern const Codec EI_CODEC(q8_0);
const Codec EI_CODEC(q8_0) = make_codec<BlockQ8_0, 32, encode, decode, true>(EI_FORMAT_Q8_0);

}  // namespace ei
