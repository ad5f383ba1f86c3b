// x = d * (q - 8). The value of greatest magnitude gets q = 0, whatever its sign, so that all of 0 to 15 is used.
#include "codec/search.h"
#include "core/compiler.h"

namespace ei {
namespace {

bool encode_weighted(const float *x, const float *weights, BlockQ4_0 &block) {
    uint8_t q[32];
    block.d = weighted_symmetric<8>(x, weights, q);
    pack_nibbles<16>(q, block.qs);
    return finite_half(block.d);
}

bool encode(const float *x, const float *weights, BlockQ4_0 &block) {
    const Peaks ends = peaks<32>(x);
    if (!ends.in_range()) return false;
    if (weights != nullptr) return encode_weighted(x, weights, block);
    const float d = farthest<32>(x, ends) / -8.0f, inverse = reciprocal(d);
    block.d = float_to_half(d);
    // 8 times a rounding above 8 at most: never below 0.
    const auto quant = [inverse](float value) { return least_of(static_cast<int32_t>(value * inverse + 8.5f), 15); };
    EI_ROLLED  // GCC would unroll 16 rounds before it can make vectors of them
    for (int i = 0; i < 16; ++i) block.qs[i] = static_cast<uint8_t>(quant(x[i]) | quant(x[i + 16]) << 4);
    return finite_half(block.d);
}

void decode(const BlockQ4_0 &block, float *x) {
    const float d = half_to_float(block.d);
    uint8_t q[32];
    unpack_nibbles<16>(block.qs, q);
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(q[i] - 8);
}

}  // namespace

extern const Codec EI_CODEC(q4_0);
const Codec EI_CODEC(q4_0) = make_codec<BlockQ4_0, 32, encode, decode, true>(EI_FORMAT_Q4_0);

}  // namespace ei
