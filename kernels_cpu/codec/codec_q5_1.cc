// x = d * q + m, from the least to the greatest value in 31 steps.
#include "codec/search.h"
#include "core/compiler.h"

namespace ei {
namespace {

constexpr Offsets kOffsets = {-8, 16, 0.25f};

bool encode_weighted(const float *x, const float *weights, BlockQ5_1 &block) {
    uint8_t q[32];
    weighted_affine<31>(x, weights, kOffsets, block.d, block.m, q);
    put_word(fifth_bits(q), block.qh);
    pack_nibbles<16>(q, block.qs);
    return finite_half(block.d) && finite_half(block.m);
}

bool encode(const float *x, const float *weights, BlockQ5_1 &block) {
    const Peaks peak = peaks<32>(x);
    if (!peak.in_range()) return false;
    if (weights != nullptr) return encode_weighted(x, weights, block);
    const Extremes ends = extremes<32>(x, peak);
    const float m = ends.least, d = (ends.greatest - m) / 31.0f, inverse = reciprocal(d);
    block.d = float_to_half(d), block.m = float_to_half(m);
    const auto quant = [inverse, m](float value) { return least_of(static_cast<int32_t>((value - m) * inverse + 0.5f), 31); };
    uint32_t fifth = 0;
    EI_ROLLED  // GCC would unroll 16 rounds before it can make vectors of them
    for (int i = 0; i < 16; ++i) {
        const int32_t low = quant(x[i]), high = quant(x[i + 16]);
        block.qs[i] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
        fifth |= static_cast<uint32_t>(low >> 4 << i | high >> 4 << (i + 16));
    }
    put_word(fifth, block.qh);
    return finite_half(block.d) && finite_half(block.m);
}

void decode(const BlockQ5_1 &block, float *x) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    uint8_t q[32];
    unpack_nibbles<16>(block.qs, q);
    add_fifth_bits(block.qh, q);
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(q[i]) + m;
}

}  // namespace

extern const Codec EI_CODEC(q5_1);
const Codec EI_CODEC(q5_1) = make_codec<BlockQ5_1, 32, encode, decode, true>(EI_FORMAT_Q5_1);

}  // namespace ei
