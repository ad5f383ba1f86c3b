// x = d * value[q], 16 values that are unevenly spaced.
#include "codec/search.h"

namespace ei {
namespace {

constexpr float kValues[16] = {-127.0f, -104.0f, -83.0f, -65.0f, -49.0f, -35.0f, -22.0f, -10.0f,
                               1.0f,    13.0f,   25.0f,  38.0f,  53.0f,  69.0f,  89.0f,  113.0f};

// The x of greatest magnitude goes to about either end of the values.
constexpr float kInverses[14] = {-133.0f, -131.0f, -129.0f, -127.0f, -125.0f, -123.0f, -121.0f,
                                 107.0f,  109.0f,  111.0f,  113.0f,  115.0f,  117.0f,  119.0f};

// The nearest value, the lower of two: every middle that is passed adds a step. Sums of small integers are exact.
inline float nearest_value(float scaled) {
    float value = kValues[0];
    for (int i = 1; i < 16; ++i) value += scaled > (kValues[i - 1] + kValues[i]) / 2.0f ? kValues[i] - kValues[i - 1] : 0.0f;
    return value;
}

inline uint8_t nearest_index(float scaled) {
    int index = 0;
    for (int i = 1; i < 16; ++i) index += scaled > (kValues[i - 1] + kValues[i]) / 2.0f;
    return static_cast<uint8_t>(index);
}

bool encode(const float *x, const float *weights, BlockQ4_0 &block) {
    float ones[32];
    for (float &one : ones) one = 1.0f;
    block.d = float_to_half(fit_scale<32>(x, weights ? weights : ones, kInverses, nearest_value));
    if (!finite_half(block.d)) return false;
    const float d = half_to_float(block.d);
    uint8_t q[32];
    for (int i = 0; i < 32; ++i) q[i] = d == 0.0f ? uint8_t{8} : nearest_index(x[i] / d);
    pack_nibbles<16>(q, block.qs);
    return true;
}

void decode(const BlockQ4_0 &block, float *x) {
    const float d = half_to_float(block.d);
    uint8_t q[32];
    unpack_nibbles<16>(block.qs, q);
    for (int i = 0; i < 32; ++i) x[i] = d * kValues[q[i]];
}

}  // namespace

extern const Codec EI_CODEC(iq4_nl);
const Codec EI_CODEC(iq4_nl) = make_codec<BlockQ4_0, 32, encode, decode>(EI_FORMAT_IQ4_NL);

}  // namespace ei
