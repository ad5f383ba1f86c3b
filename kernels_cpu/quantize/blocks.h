// From quantized columns to blocks of activations: what every vector kernel does alike. `Column` is the instruction set's part,
//
//   float quantize<kN>(x, q, sums)   kN elements -> int8 in q and the sums of every 16 of them; returns d
//
// to the bits of quantize_q8_scalar.cc: maxima of magnitudes as integers, sums of int8 exact, all else element by element.
#ifndef EI_QUANTIZE_BLOCKS_H
#define EI_QUANTIZE_BLOCKS_H

#include <cstring>

#include "core/compiler.h"
#include "core/kernel.h"
#include "quantize/scale.h"

namespace ei {
namespace {

template <class Block>
EI_INLINE void scatter(const int8_t *q, int n, int c, Block &block) {
    for (int g = 0; g < n / 4; ++g) std::memcpy(block.q[g][c], q + 4 * g, 4);
}

EI_INLINE int32_t pack_pair(int32_t low, int32_t high) {
    return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
}

template <class Column>
void quantize_32(const QuantizeArgs &args) {
    // Both blocks of 32 have the same shape; only the last row differs.
    ActivationZero32 &block = *static_cast<ActivationZero32 *>(args.block);
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[32];
        int32_t sums[2];
        block.d[c] = Column::template quantize<32>(args.columns[c], q, sums);
        scatter(q, 32, c, block);
        const int32_t sum = sums[0] + sums[1];
        if (args.activation == Activation::zero32) {
            block.offset[c] = -args.zero_point * sum;
        } else {
            static_cast<ActivationMin32 *>(args.block)->sum[c] = block.d[c] * static_cast<float>(sum);
        }
    }
}

template <class Column>
void quantize_256(const QuantizeArgs &args) {
    for (int c = 0; c < args.n_columns; ++c) {
        alignas(64) int8_t q[256];
        alignas(64) int32_t sum[16];
        const float d = Column::template quantize<256>(args.columns[c], q, sum);
        if (args.activation == Activation::min256) {
            ActivationMin256 &block = *static_cast<ActivationMin256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int p = 0; p < 4; ++p) block.pair[p][c] = pack_pair(sum[4 * p] + sum[4 * p + 1], sum[4 * p + 2] + sum[4 * p + 3]);
        } else {
            ActivationZero256 &block = *static_cast<ActivationZero256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int s = 0; s < 16; ++s) block.offset[s][c] = -args.zero_point * sum[s];
            for (int p = 0; p < 8; ++p) block.pair[p][c] = pack_pair(sum[2 * p], sum[2 * p + 1]);
        }
    }
}

template <class Column>
void quantize(const QuantizeArgs &args) {
    if (args.activation == Activation::zero32 || args.activation == Activation::min32) {
        quantize_32<Column>(args);
    } else {
        quantize_256<Column>(args);
    }
}

}  // namespace
}  // namespace ei
#endif
