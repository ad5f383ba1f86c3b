// x = d * scale * (q - 32), sixteen sub-blocks of 16. Of each 128 elements, the low nibbles lie as two runs of 32 below two others, the
// high pairs of bits as four runs of 32 in one.
#include "codec/search.h"

namespace ei {
namespace {

// The x of greatest magnitude goes to about -32, the end of the range.
struct Inverses {
    float values[19];
    constexpr Inverses() : values() {
        for (int i = 0; i < 19; ++i) values[i] = static_cast<float>(i - 329) * 0.1f;
    }
};
constexpr Inverses kInverses;

bool encode(const float *x, const float *weights, BlockQ6_K &block) {
    float columns[16][16], column_weights[16][16], best[16];
    for (int i = 0; i < 16; ++i) {
        for (int s = 0; s < 16; ++s) {
            columns[i][s] = x[16 * s + i];
            column_weights[i][s] = weights ? weights[16 * s + i] : 1.0f;
        }
    }
    fit_scales(columns, column_weights, kInverses.values, [](float scaled) { return clamped(scaled, -32.0f, 31.0f); }, best);
    block.d = float_to_half(farthest<16>(best) / -128.0f);
    if (!finite_half(block.d)) return false;
    const float d = half_to_float(block.d);
    uint8_t q[256];
    for (int s = 0; s < 16; ++s) {
        const float scale = d == 0.0f ? 0.0f : clamped(best[s] / d, -128.0f, 127.0f), step = d * scale;
        block.scales[s] = static_cast<int8_t>(scale);
        const float divisor = step == 0.0f ? 1.0f : step, low = step == 0.0f ? 0.0f : -32.0f, high = step == 0.0f ? 0.0f : 31.0f;
        for (int i = 16 * s; i < 16 * s + 16; ++i) q[i] = static_cast<uint8_t>(clamped(x[i] / divisor, low, high) + 32.0f);
    }
    for (int half = 0; half < 2; ++half) {
        const uint8_t *const from = q + 128 * half;
        pack_nibbles<64>(from, block.ql + 64 * half);
        for (int i = 0; i < 32; ++i) {
            block.qh[32 * half + i] =
                static_cast<uint8_t>(from[i] >> 4 | from[i + 32] >> 4 << 2 | from[i + 64] >> 4 << 4 | from[i + 96] >> 4 << 6);
        }
    }
    return true;
}

void decode(const BlockQ6_K &block, float *x) {
    const float d = half_to_float(block.d);
    uint8_t q[256];
    for (int half = 0; half < 2; ++half) {
        uint8_t *const to = q + 128 * half;
        unpack_nibbles<64>(block.ql + 64 * half, to);
        for (int i = 0; i < 128; ++i) to[i] = static_cast<uint8_t>(to[i] | (block.qh[32 * half + i % 32] >> i / 32 * 2 & 3) << 4);
    }
    for (int s = 0; s < 16; ++s) {
        const float step = d * static_cast<float>(block.scales[s]);
        for (int i = 16 * s; i < 16 * s + 16; ++i) x[i] = step * static_cast<float>(q[i] - 32);
    }
}

}  // namespace

extern const Codec EI_CODEC(q6_k);
const Codec EI_CODEC(q6_k) = make_codec<BlockQ6_K, 256, encode, decode>(EI_FORMAT_Q6_K);

}  // namespace ei
