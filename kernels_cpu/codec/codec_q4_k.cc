// x = d * scale * q - dmin * min.
#include "codec/search.h"

namespace ei {
namespace {

constexpr Offsets kOffsets = {-4, 8, 0.35f};

bool encode(const float *x, const float *weights, BlockQ4_K &block) {
    SuperBlock found;
    if (!encode_super_block<15>(x, weights, kOffsets, found)) return false;
    block.d = found.d, block.dmin = found.dmin;
    pack_scales(found, block.scales);
    for (int pair = 0; pair < 4; ++pair) pack_nibbles<32>(found.quants + 64 * pair, block.qs + 32 * pair);
    return true;
}

void decode(const BlockQ4_K &block, float *x) {
    SuperBlock read;
    read.d = block.d, read.dmin = block.dmin;
    unpack_scales(block.scales, read);
    for (int pair = 0; pair < 4; ++pair) unpack_nibbles<32>(block.qs + 32 * pair, read.quants + 64 * pair);
    decode_super_block(read, x);
}

}  // namespace

extern const Codec EI_CODEC(q4_k);
const Codec EI_CODEC(q4_k) = make_codec<BlockQ4_K, 256, encode, decode>(EI_FORMAT_Q4_K);

}  // namespace ei
