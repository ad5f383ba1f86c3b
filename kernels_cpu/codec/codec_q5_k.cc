// x = d * scale * q - dmin * min; bit s of qh[i] is the fifth bit of element i of sub-block s.
#include "codec/search.h"

namespace ei {
namespace {

constexpr Offsets kOffsets = {-2, 6, 0.25f};

bool encode(const float *x, const float *weights, BlockQ5_K &block) {
    SuperBlock found;
    if (!encode_super_block<31>(x, weights, kOffsets, found)) return false;
    block.d = found.d, block.dmin = found.dmin;
    pack_scales(found, block.scales);
    for (int pair = 0; pair < 4; ++pair) pack_nibbles<32>(found.quants + 64 * pair, block.qs + 32 * pair);
    for (int i = 0; i < 32; ++i) {
        uint8_t bits = 0;
        for (int s = 0; s < 8; ++s) bits = static_cast<uint8_t>(bits | found.quants[32 * s + i] >> 4 << s);
        block.qh[i] = bits;
    }
    return true;
}

void decode(const BlockQ5_K &block, float *x) {
    SuperBlock read;
    read.d = block.d, read.dmin = block.dmin;
    unpack_scales(block.scales, read);
    for (int pair = 0; pair < 4; ++pair) unpack_nibbles<32>(block.qs + 32 * pair, read.quants + 64 * pair);
    for (int s = 0; s < 8; ++s) {
        uint8_t *const q = read.quants + 32 * s;
        for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(q[i] | (block.qh[i] >> s & 1) << 4);
    }
    decode_super_block(read, x);
}

}  // namespace

extern const Codec EI_CODEC(q5_k);
const Codec EI_CODEC(q5_k) = make_codec<BlockQ5_K, 256, encode, decode>(EI_FORMAT_Q5_K);

}  // namespace ei
