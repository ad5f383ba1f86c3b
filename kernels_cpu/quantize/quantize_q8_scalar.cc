// The definition of quantized activations; see core/formats.h.
#include <cmath>

#include "core/half.h"
#include "core/kernel.h"

namespace ei {
namespace {

struct Quantized {
    int8_t q[256];
    float d;
};

Quantized quantize_column(const float *x, int n) {
    Quantized out{};
    uint32_t largest = 0;  // as bits, which are ordered like the magnitudes and put infinity and NaN on top
    for (int i = 0; i < n; ++i) {
        const uint32_t magnitude = float_bits(x[i]) & 0x7fffffff;
        if (magnitude > largest) largest = magnitude;
    }
    if (largest >= 0x7f800000) {
        out.d = bits_float(0x7fc00000);
        return out;
    }
    const float max = bits_float(largest);
    if (max < kTinyActivation) return out;
    const float inverse = 127.0f / max;
    for (int i = 0; i < n; ++i) out.q[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
    out.d = max / 127.0f;
    return out;
}

int32_t sum(const int8_t *q, int n) {
    int32_t total = 0;
    for (int i = 0; i < n; ++i) total += q[i];
    return total;
}

int32_t pack_pair(int32_t low, int32_t high) { return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16); }

template <class Block>
void place(const Quantized &from, int n, int c, Block &to) {
    for (int i = 0; i < n; ++i) to.q[i / 4][c][i % 4] = from.q[i];
    to.d[c] = from.d;
}

void quantize(const QuantizeArgs &args) {
    for (int c = 0; c < args.n_columns; ++c) {
        const bool small = args.activation == Activation::zero32 || args.activation == Activation::min32;
        const Quantized column = quantize_column(args.columns[c], small ? 32 : 256);
        if (args.activation == Activation::zero32) {
            ActivationZero32 &block = *static_cast<ActivationZero32 *>(args.block);
            place(column, 32, c, block);
            block.offset[c] = -args.zero_point * sum(column.q, 32);
        } else if (args.activation == Activation::min32) {
            ActivationMin32 &block = *static_cast<ActivationMin32 *>(args.block);
            place(column, 32, c, block);
            block.sum[c] = column.d * static_cast<float>(sum(column.q, 32));
        } else if (args.activation == Activation::min256) {
            ActivationMin256 &block = *static_cast<ActivationMin256 *>(args.block);
            place(column, 256, c, block);
            for (int p = 0; p < 4; ++p) block.pair[p][c] = pack_pair(sum(column.q + 64 * p, 32), sum(column.q + 64 * p + 32, 32));
        } else {
            ActivationZero256 &block = *static_cast<ActivationZero256 *>(args.block);
            place(column, 256, c, block);
            for (int s = 0; s < 16; ++s) block.offset[s][c] = -args.zero_point * sum(column.q + 16 * s, 16);
            for (int p = 0; p < 8; ++p) block.pair[p][c] = pack_pair(sum(column.q + 32 * p, 16), sum(column.q + 32 * p + 16, 16));
        }
    }
}

}  // namespace

extern const Kernel ei_kernel_quantize_q8_scalar;
const Kernel ei_kernel_quantize_q8_scalar(EI_ISA_SCALAR, quantize);

}  // namespace ei
