// x = d * (q - 16). The value of greatest magnitude gets q = 0, whatever its sign, so that all of 0 to 31 is used.
#include "codec/search.h"
#include "core/compiler.h"

namespace ei {
namespace {

bool encode_weighted(const float *x, const float *weights, BlockQ5_0 &block) {
    uint8_t q[32];
    block.d = weighted_symmetric<16>(x, weights, q);
    put_word(fifth_bits(q), block.qh);
    pack_nibbles<16>(q, block.qs);
    return finite_half(block.d);
}

bool encode(const float *x, const float *weights, BlockQ5_0 &block) {
    const Peaks ends = peaks<32>(x);
    if (!ends.in_range()) return false;
    if (weights != nullptr) return encode_weighted(x, weights, block);
    const float d = farthest<32>(x, ends) / -16.0f, inverse = reciprocal(d);
    block.d = float_to_half(d);
    // 16 times a rounding above 16 at most: never below 0.
    const auto quant = [inverse](float value) { return least_of(static_cast<int32_t>(value * inverse + 16.5f), 31); };
    uint32_t fifth = 0;
    EI_ROLLED  // GCC would unroll 16 rounds before it can make vectors of them
    for (int i = 0; i < 16; ++i) {
        const int32_t low = quant(x[i]), high = quant(x[i + 16]);
        block.qs[i] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
        fifth |= static_cast<uint32_t>(low >> 4 << i | high >> 4 << (i + 16));
    }
    put_word(fifth, block.qh);
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

extern const Codec EI_CODEC(q5_0);
const Codec EI_CODEC(q5_0) = make_codec<BlockQ5_0, 32, encode, decode, true>(EI_FORMAT_Q5_0);

}  // namespace ei
