// Rows of floats to blocks of a format as they lie in a file, and back. One file per format; edgeinfer/kernels/formats has the same in
// NumPy, and both give the same bits: float operations here are single +, -, *, / in a written order, and rounding is `nearest` below.
// So they may be compiled once more for an instruction set with wider vectors (ei_codec in cmake/kernels.cmake), which says EI_CODEC_ISA:
// everything inline has a namespace for each, since the linker would take two copies of one name for each other.
#ifndef EI_CODEC_CODEC_H
#define EI_CODEC_CODEC_H

#include <cstring>

#include "core/formats.h"
#include "core/half.h"
#include "edgeinfer_kernels.h"

#ifndef EI_CODEC_ISA
#define EI_CODEC_ISA baseline
#endif
#define EI_CODEC_JOIN(format, isa) ei_codec_##format##_##isa
#define EI_CODEC_NAMED(format, isa) EI_CODEC_JOIN(format, isa)
// The name of a format's codec in this compilation.
#define EI_CODEC(format) EI_CODEC_NAMED(format, EI_CODEC_ISA)

namespace ei {

struct Codec {
    int32_t id;  // EI_FORMAT_...
    int32_t block_size;
    size_t block_bytes;
    // weights: one per x, or null for all 1. False for a value that the format cannot hold; blocks after it are then not written.
    bool (*encode)(const float *x, const float *weights, int64_t n_blocks, uint8_t *blocks);
    void (*decode)(const uint8_t *blocks, int64_t n_blocks, float *x);
};

namespace EI_CODEC_ISA {

// Below this no sum of squares over a block overflows, and no scale above it would fit half precision.
static constexpr float kMaxValue = 0x1p40f;
// Values whose spread is below this count as equal: no scale of half precision resolves it.
static constexpr float kTinySpread = 0x1p-100f;

// Whether all are below kMaxValue. As bits, which are ordered like the magnitudes and put infinity and NaN on top.
static inline bool in_range(const float *x, int64_t n) {
    int32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const int32_t magnitude = static_cast<int32_t>(float_bits(x[i]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < static_cast<int32_t>(float_bits(kMaxValue));
}

// Blocks need not be aligned. weights may be null. kChecks: the format checks its range itself.
template <class Block, int kSize, bool (*kEncode)(const float *x, const float *weights, Block &block), bool kChecks>
bool encode_blocks(const float *x, const float *weights, int64_t n_blocks, uint8_t *blocks) {
    if (!kChecks && !in_range(x, n_blocks * kSize)) return false;
    for (int64_t b = 0; b < n_blocks; ++b) {
        Block block;
        if (!kEncode(x + b * kSize, weights ? weights + b * kSize : nullptr, block)) return false;
        std::memcpy(blocks + b * static_cast<int64_t>(sizeof block), &block, sizeof block);
    }
    return true;
}

template <class Block, int kSize, void (*kDecode)(const Block &block, float *x)>
void decode_blocks(const uint8_t *blocks, int64_t n_blocks, float *x) {
    for (int64_t b = 0; b < n_blocks; ++b) {
        Block block;
        std::memcpy(&block, blocks + b * static_cast<int64_t>(sizeof block), sizeof block);
        kDecode(block, x + b * kSize);
    }
}

template <class Block, int kSize, bool (*kEncode)(const float *, const float *, Block &), void (*kDecode)(const Block &, float *),
          bool kChecks = false>
constexpr Codec make_codec(int32_t id) {
    return {id, kSize, sizeof(Block), encode_blocks<Block, kSize, kEncode, kChecks>, decode_blocks<Block, kSize, kDecode>};
}

static inline bool finite_half(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

static inline float minimum(float a, float b) { return a < b ? a : b; }
static inline int32_t least_of(int32_t a, int32_t b) { return a < b ? a : b; }
static inline float maximum(float a, float b) { return a > b ? a : b; }

// To integers, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
static inline float nearest(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

static inline float clamped(float value, float low, float high) { return nearest(minimum(maximum(value, low), high)); }

// 1 / scale; 0 where that is infinite.
static inline float reciprocal(float scale) {
    const float inverse = 1.0f / scale;
    return (float_bits(inverse) & 0x7fffffff) < 0x7f800000 ? inverse : 0.0f;
}

// Bits as integers that are ordered like the floats, -0 below 0; its own inverse.
static inline int32_t ordered(int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

// Bits of the values farthest from 0 on either side; where one side has none, bits of any value of the other. As signed integers positive
// values come last, in their order; as unsigned ones negative values do, in that of their magnitudes.
struct Peaks {
    uint32_t below, above;
    bool in_range() const {
        constexpr uint32_t kBeyond = 0x53800000;  // kMaxValue
        return (below & 0x7fffffff) < kBeyond && (above & 0x7fffffff) < kBeyond;
    }
};
template <int kN>
static inline Peaks peaks(const float *x) {
    uint32_t below = 0;
    int32_t above = INT32_MIN;
    for (int i = 0; i < kN; ++i) {
        const uint32_t bits = float_bits(x[i]);
        below = bits > below ? bits : below;
        above = static_cast<int32_t>(bits) > above ? static_cast<int32_t>(bits) : above;
    }
    return {below, static_cast<uint32_t>(above)};
}

struct Extremes {
    float least, greatest;
};
template <int kN>
static inline Extremes extremes(const float *x, const Peaks &ends) {
    if (ends.below >> 31 && !(ends.above >> 31)) return {bits_float(ends.below), bits_float(ends.above)};
    int32_t least = INT32_MAX, greatest = INT32_MIN;  // all are on one side of 0
    for (int i = 0; i < kN; ++i) {
        const int32_t key = ordered(static_cast<int32_t>(float_bits(x[i])));
        least = key < least ? key : least;
        greatest = key > greatest ? key : greatest;
    }
    return {bits_float(static_cast<uint32_t>(ordered(least))), bits_float(static_cast<uint32_t>(ordered(greatest)))};
}

// The value of greatest magnitude, the first of several.
template <int kN>
static inline float farthest(const float *x, const Peaks &ends) {
    const uint32_t low = ends.below & 0x7fffffff, high = ends.above & 0x7fffffff;
    if (low != high) return bits_float(low > high ? ends.below : ends.above);
    int at = 0;
    while ((float_bits(x[at]) & 0x7fffffff) != high) ++at;
    return x[at];
}
template <int kN>
static inline float farthest(const float *x) {
    return farthest<kN>(x, peaks<kN>(x));
}

// Nibbles: element i in the low one of byte i, element i + kRun in the high one.
template <int kRun>
static inline void pack_nibbles(const uint8_t *q, uint8_t *bytes) {
    for (int i = 0; i < kRun; ++i) bytes[i] = static_cast<uint8_t>((q[i] & 15) | (q[i + kRun] & 15) << 4);
}
template <int kRun>
static inline void unpack_nibbles(const uint8_t *bytes, uint8_t *q) {
    for (int i = 0; i < kRun; ++i) q[i] = bytes[i] & 15, q[i + kRun] = bytes[i] >> 4;
}

// The fifth bits of 32 elements, element i in bit i.
static inline void put_word(uint32_t word, uint8_t *bytes) {
    for (int i = 0; i < 4; ++i) bytes[i] = static_cast<uint8_t>(word >> 8 * i);
}
static inline uint32_t fifth_bits(const uint8_t *q) {
    uint32_t word = 0;
    for (int i = 0; i < 32; ++i) word |= static_cast<uint32_t>(q[i] >> 4) << i;
    return word;
}
static inline void add_fifth_bits(const uint8_t *bytes, uint8_t *q) {
    for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(q[i] | (bytes[i / 8] >> i % 8 & 1) << 4);
}

}  // namespace EI_CODEC_ISA
using namespace EI_CODEC_ISA;

}  // namespace ei
#endif
