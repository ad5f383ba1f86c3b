// x = d * q + m, from the least to the greatest value in 15 steps.
#include "codec/search.h"
#include "core/compiler.h"

namespace ei {
namespace {

constexpr Offsets kOffsets = {-8, 16, 0.25f};

bool encode_weighted(const float *x, const float *weights, BlockQ4_1 &block) {
    uint8_t q[32];
    weighted_affine<15>(x, weights, kOffsets, block.d, block.m, q);
    pack_nibbles<16>(q, block.qs);
    return finite_half(block.d) && finite_half(block.m);
}

bool encode(const float *x, const float *weights, BlockQ4_1 &block) {
    const Peaks peak = peaks<32>(x);
    if (!peak.in_range()) return false;
    if (weights != nullptr) return encode_weighted(x, weights, block);
    const Extremes ends = extremes<32>(x, peak);
    const float m = ends.least, d = (ends.greatest - m) / 15.0f, inverse = reciprocal(d);
    block.d = float_to_half(d), block.m = float_to_half(m);
    const auto quant = [inverse, m](float value) { return least_of(static_cast<int32_t>((value - m) * inverse + 0.5f), 15); };
    EI_ROLLED  // GCC would unroll 16 rounds before it can make vectors of them
    for (int i = 0; i < 16; ++i) block.qs[i] = static_cast<uint8_t>(quant(x[i]) | quant(x[i + 16]) << 4);
    return finite_half(block.d) && finite_half(block.m);
}

void decode(const BlockQ4_1 &block, float *x) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    uint8_t q[32];
    unpack_nibbles<16>(block.qs, q);
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(q[i]) + m;
}

}  // namespace

extern const Codec EI_CODEC(q4_1);
const Codec EI_CODEC(q4_1) = make_codec<BlockQ4_1, 32, encode, decode, true>(EI_FORMAT_Q4_1);

}  // namespace ei
