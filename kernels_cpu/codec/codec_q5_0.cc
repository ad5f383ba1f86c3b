// x = d * (q - 16). The value of greatest magnitude gets q = 0, whatever its sign, so that all of 0 to 31 is used.
#include "codec/codec.h"

namespace ei {
namespace {

bool encode(const float *x, const float *, BlockQ5_0 &block) {
    const float d = farthest<32>(x) / -16.0f, inverse = reciprocal(d);
    block.d = float_to_half(d);
    uint8_t q[32];
    for (int i = 0; i < 32; ++i) {
        const int32_t at = static_cast<int32_t>(x[i] * inverse + 16.5f);  // 16 times a rounding above 16 at most: never below 0
        q[i] = static_cast<uint8_t>(at < 31 ? at : 31);
    }
    pack_fifth_bits(q, block.qh);
    pack_nibbles<16>(q, block.qs);
    return finite_half(block.d);
}

void decode(const BlockQ5_0 &block, float *x) {
    const float d = half_to_float(block.d);
    uint8_t q[32];
    unpack_nibbles<16>(block.qs, q);
    add_fifth_bits(block.qh, q);
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(q[i] - 16);
}

}  // namespace

extern const Codec ei_codec_q5_0;
const Codec ei_codec_q5_0 = make_codec<BlockQ5_0, 32, encode, decode>(EI_FORMAT_Q5_0);

}  // namespace ei
