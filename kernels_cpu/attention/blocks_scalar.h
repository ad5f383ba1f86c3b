// The int8 part of attention over q8_0, element by element: the definition of what the vector versions compute.
#ifndef EI_ATTENTION_BLOCKS_SCALAR_H
#define EI_ATTENTION_BLOCKS_SCALAR_H

#include "attention/kv_q8_0.h"
#include "attention/lanes_scalar.h"

namespace ei {
namespace {

struct ScalarBlocks {
    using L = ScalarLanes;
    static constexpr int kVectors = 1;
    struct Ints {
        int32_t x[16];
    };

    static uint32_t largest(L::F a, L::F b) {
        uint32_t best = 0;
        for (int i = 0; i < 32; ++i) {
            const uint32_t magnitude = float_bits(i < 16 ? a.x[i] : b.x[i - 16]) & 0x7fffffff;
            best = magnitude > best ? magnitude : best;
        }
        return best;
    }
    static void quantize(L::F x, int8_t *to) {
        for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(std::lrintf(x.x[i]));
    }
    static void transpose(const char *const *cells, size_t offset, char *to) {
        for (int i = 0; i < 16; ++i) {
            for (int group = 0; group < 8; ++group) std::memcpy(to + group * kGroupBytes + 4 * i, cells[i] + offset + 4 * group, 4);
        }
    }
    template <int R>
    static void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][kVectors]) {
        for (int r = 0; r < R; ++r) {
            const QueryBlock &query = *reinterpret_cast<const QueryBlock *>(q + r * stride);
            for (int i = 0; i < 16; ++i) {
                int32_t sum = 0;
                for (int d = 0; d < kBlock; ++d) sum += query.q[d] * static_cast<int8_t>(k[d / 4 * kGroupBytes + 4 * i + d % 4]);
                sums[r][0].x[i] = sum;
            }
        }
    }
    static L::F to_float(Ints v) {
        return L::each([&](int i) { return static_cast<float>(v.x[i]); });
    }
    static L::F load_int8(const int8_t *from) {
        return L::each([&](int i) { return static_cast<float>(from[i]); });
    }
    static L::F set_half(const uint16_t *from) { return L::set(half_to_float(*from)); }
};

}  // namespace
}  // namespace ei
#endif
