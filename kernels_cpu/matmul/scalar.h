// The reference product, for every format; see MatmulArgs in core/kernel.h for what it defines.
#ifndef EI_MATMUL_SCALAR_H
#define EI_MATMUL_SCALAR_H

#include <cmath>

#include "core/half.h"
#include "core/kernel.h"
#include "matmul/pack.h"

namespace ei {
namespace {

template <class Block>
int32_t dot(const uint8_t *quants, const Block &activation, int c, int first, int n) {
    int32_t sum = 0;
    for (int i = first; i < first + n; ++i) sum += quants[i] * activation.q[i / 4][c][i % 4];
    return sum;
}

struct StoredQuants {
    static void map(uint8_t *) {}
};

// Calls product(row, column) for each output and stores what it returns.
template <class Product>
void for_each_output(const MatmulArgs &args, Product product) {
    for (int c = 0; c < args.n_columns; ++c) {
        for (int row = 0; row < args.n_rows; ++row) args.out[c][row] = product(row, c);
    }
}

template <int32_t kId, class Map = StoredQuants>
void matmul_zero32(const MatmulArgs &args) {
    const Format &format = *find_format(kId);
    const ActivationZero32 *const activations = reinterpret_cast<const ActivationZero32 *>(args.activations);
    for_each_output(args, [&](int row, int c) {
        float y = 0.0f;
        uint8_t quants[32];
        for (int64_t b = 0; b < args.n_blocks; ++b) {
            const BlockOffsets at = block_offsets(format, args.n_blocks, b);
            unpack_block(format, args.panel + at.body, row, quants);
            Map::map(quants);
            const TailScale &tail = *reinterpret_cast<const TailScale *>(args.panel + at.tail);
            const int32_t i = dot(quants, activations[b], c, 0, 32) + activations[b].offset[c];
            y = std::fma(half_to_float(tail.d[row]) * activations[b].d[c], static_cast<float>(i), y);
        }
        return y;
    });
}

template <int32_t kId>
void matmul_min32(const MatmulArgs &args) {
    const Format &format = *find_format(kId);
    const ActivationMin32 *const activations = reinterpret_cast<const ActivationMin32 *>(args.activations);
    for_each_output(args, [&](int row, int c) {
        float y = 0.0f;
        uint8_t quants[32];
        for (int64_t b = 0; b < args.n_blocks; ++b) {
            const BlockOffsets at = block_offsets(format, args.n_blocks, b);
            unpack_block(format, args.panel + at.body, row, quants);
            const TailScaleMin &tail = *reinterpret_cast<const TailScaleMin *>(args.panel + at.tail);
            const int32_t i = dot(quants, activations[b], c, 0, 32);
            y = std::fma(half_to_float(tail.d[row]) * activations[b].d[c], static_cast<float>(i), y);
            y = std::fma(half_to_float(tail.m[row]), activations[b].sum[c], y);
        }
        return y;
    });
}

template <int32_t kId, class Body>
void matmul_min256(const MatmulArgs &args) {
    const Format &format = *find_format(kId);
    const Body *const bodies = reinterpret_cast<const Body *>(args.panel);
    const ActivationMin256 *const activations = reinterpret_cast<const ActivationMin256 *>(args.activations);
    for_each_output(args, [&](int row, int c) {
        float y = 0.0f;
        uint8_t quants[256];
        for (int64_t b = 0; b < args.n_blocks; ++b) {
            unpack_block(format, reinterpret_cast<const uint8_t *>(bodies + b), row, quants);
            int32_t i = 0, j = 0;
            for (int s = 0; s < 8; ++s) {
                const ScaleMin scale = scale_min(bodies[b].scale_low, bodies[b].scale_high, s, row);
                const uint32_t pair = static_cast<uint32_t>(activations[b].pair[s / 2][c]);
                i += scale.scale * dot(quants, activations[b], c, 32 * s, 32);
                j += scale.min * static_cast<int16_t>(s % 2 ? pair >> 16 : pair & 0xffff);
            }
            y = std::fma(-(half_to_float(bodies[b].dmin[row]) * activations[b].d[c]), static_cast<float>(j), y);
            y = std::fma(half_to_float(bodies[b].d[row]) * activations[b].d[c], static_cast<float>(i), y);
        }
        return y;
    });
}

}  // namespace
}  // namespace ei
#endif
