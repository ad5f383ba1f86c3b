// The layouts, all of them here: GGUF's blocks as they lie in a file, our panels of 16 rows, and quantized activations.
//
// A panel holds 16 rows so that one 32-bit lane of a 512-bit register is one row: a weight register has 16 rows x 4 neighbouring k, and one
// VPDPBUSD (or four SDOT) multiplies it with 4 k of one column. All instruction sets read the same panels. A panel has the size of the 16
// file rows it came from, rounded up to 64 bytes; rows past the last are zeros. Its blocks lie in runs of kRunBlocks (the last run may be
// shorter), bodies first, so that the wide loads are aligned and yet a panel is one stream from memory:
//
//     body of block 0, ..., body of block 7, tail of block 0, ..., tail of block 7, body of block 8, ...
//
// F32, F16 and BF16 are blocks of one element: the values of 16 rows side by side, one k after the other, and no tails.
//
// "Group g" of a block is its elements 4g .. 4g+3. An array [64] of bytes is 16 rows x 4 elements: byte 4*row + element.
#ifndef EI_CORE_FORMATS_H
#define EI_CORE_FORMATS_H

#include <cstddef>
#include <cstdint>

namespace ei {

static constexpr int kPanelRows = 16;
static constexpr int kGroupColumns = 8;
static constexpr int kRunBlocks = 8;

// ---- GGUF's blocks (ggml-common.h of llama.cpp; the numbers are those of ggml_type). d, m and dmin are IEEE half precision.

struct BlockQ4_0 {  // x = d * (q - 8); element i in the low nibble of qs[i], element i + 16 in the high one
    uint16_t d;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18, "GGUF layout");

struct BlockQ4_1 {  // x = d * q + m
    uint16_t d, m;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20, "GGUF layout");

struct BlockQ5_0 {  // x = d * (q - 16); bit i of qh is the fifth bit of element i
    uint16_t d;
    uint8_t qh[4], qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22, "GGUF layout");

struct BlockQ5_1 {  // x = d * q + m
    uint16_t d, m;
    uint8_t qh[4], qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24, "GGUF layout");

struct BlockQ8_0 {  // x = d * q
    uint16_t d;
    int8_t qs[32];
};
static_assert(sizeof(BlockQ8_0) == 34, "GGUF layout");

struct BlockQ4_K {  // 8 sub-blocks of 32: x = d * scale * q - dmin * min, scale and min of 6 bits each packed in `scales`
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144, "GGUF layout");

struct BlockQ5_K {  // as Q4_K; bit s of qh[i] is the fifth bit of element i of sub-block s
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176, "GGUF layout");

struct BlockQ6_K {  // 16 sub-blocks of 16: x = d * scale * (q - 32)
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210, "GGUF layout");

// ---- Bodies and tails of our panels, per block.

struct Nibbles {  // 32 elements: groups 2j (low nibbles) and 2j + 1 (high nibbles) in qs[j]
    uint8_t qs[4][64];
};
struct NibblesAndBits {  // bit g of a byte of qh is the fifth bit of that element of group g
    uint8_t qs[4][64], qh[64];
};
struct Bytes {  // q + 128
    uint8_t qs[8][64];
};
struct BodyQ4_K {
    uint8_t qs[8][4][64];      // per sub-block as Nibbles
    uint8_t scale_low[8][16];  // per sub-block and row: low 4 bits of the scale, low 4 bits of the min << 4
    uint8_t scale_high[4][16]; // per pair of sub-blocks: (scale >> 4) | (min >> 4) << 2 of the even one, the same << 4 of the odd one
    uint16_t d[16], dmin[16];
};
struct BodyQ5_K {
    uint8_t qs[8][4][64];
    uint8_t qh[8][64];  // per sub-block as NibblesAndBits
    uint8_t scale_low[8][16], scale_high[4][16];
    uint16_t d[16], dmin[16];
};
struct BodyQ6_K {
    uint8_t ql[16][2][64];  // per sub-block: groups 2j and 2j + 1 in ql[j]
    uint8_t qh[16][64];     // bits 2g, 2g + 1 of a byte: bits 4, 5 of that element of group g
    int8_t scale[16][16];
};
struct BodyF32 {
    float x[16];
};
struct BodyF16 {  // and BF16
    uint16_t x[16];
};
struct TailScale {
    uint16_t d[16];
};
struct TailScaleMin {
    uint16_t d[16], m[16];
};
static_assert(sizeof(BodyQ4_K) == 16 * sizeof(BlockQ4_K) && sizeof(BodyQ4_K) % 64 == 0, "a panel is no larger than its rows");
static_assert(sizeof(BodyQ5_K) == 16 * sizeof(BlockQ5_K) && sizeof(BodyQ5_K) % 64 == 0, "a panel is no larger than its rows");
static_assert(sizeof(BodyQ6_K) + sizeof(TailScale) == 16 * sizeof(BlockQ6_K) && sizeof(BodyQ6_K) % 64 == 0, "as above");
static_assert(sizeof(Nibbles) + sizeof(TailScale) == 16 * sizeof(BlockQ4_0), "as above");
static_assert(sizeof(Nibbles) + sizeof(TailScaleMin) == 16 * sizeof(BlockQ4_1), "as above");
static_assert(sizeof(NibblesAndBits) + sizeof(TailScale) == 16 * sizeof(BlockQ5_0), "as above");
static_assert(sizeof(NibblesAndBits) + sizeof(TailScaleMin) == 16 * sizeof(BlockQ5_1), "as above");
static_assert(sizeof(Bytes) + sizeof(TailScale) == 16 * sizeof(BlockQ8_0), "as above");

// ---- Activations: columns in groups of 8, each group a run of the blocks below. q[g][c] is group g of column c, so that 4 bytes are one
// 32-bit broadcast. Columns past the last are left as they are: nobody reads them.
//
// A block is quantized with d = max|x| / 127 and q = round_half_even(x * (127 / max|x|)); d = 0 and q = 0 where max|x| < 2^-100,
// d = NaN and q = 0 where some x is not finite. Sums of q are kept in the form that the weights' format needs.

struct ActivationZero32 {  // for formats with a zero point z: offset = -z * sum(q)
    int8_t q[8][kGroupColumns][4];
    float d[kGroupColumns];
    int32_t offset[kGroupColumns];
};
struct ActivationMin32 {  // for formats with a minimum: sum = d * sum(q)
    int8_t q[8][kGroupColumns][4];
    float d[kGroupColumns];
    float sum[kGroupColumns];
};
struct ActivationMin256 {  // pair[p]: sum(q) of sub-block 2p in the low 16 bits, of 2p + 1 in the high ones
    int8_t q[64][kGroupColumns][4];
    int32_t pair[4][kGroupColumns];
    float d[kGroupColumns];
    uint8_t pad[32];
};
struct ActivationZero256 {  // offset[s] = -32 * sum(q) of the 16 elements of sub-block s; pair[p]: the sums of 2p and 2p + 1, as above
    int8_t q[64][kGroupColumns][4];
    int32_t offset[16][kGroupColumns], pair[8][kGroupColumns];
    float d[kGroupColumns];
    uint8_t pad[32];
};
struct ActivationFloat32 {  // the floats themselves, 16 of each column: a column that is not there costs no cache line
    float x[kGroupColumns][16];
};
static_assert(sizeof(ActivationZero32) == 320 && sizeof(ActivationMin32) == 320, "a multiple of 64");
static_assert(sizeof(ActivationMin256) == 2240 && sizeof(ActivationZero256) == 2880, "a multiple of 64");
static_assert(sizeof(ActivationFloat32) == 512, "a multiple of 64");

static constexpr float kTinyActivation = 0x1p-100f;

// ---- What is known of each format.

enum class Activation : int32_t { zero32, min32, min256, zero256, float32 };

struct Format {
    int32_t id;  // EI_FORMAT_...
    const char *name;
    int32_t block_size;      // elements
    size_t block_bytes;      // in a file
    size_t body_bytes;       // in a panel
    size_t tail_bytes;       // in a panel
    Activation activation;
    int32_t zero_point;      // of the stored quants, for Activation::zero32
};

// The format, or null for one we have no kernels for (core/formats.cc).
const Format *find_format(int32_t id);

static constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

static inline size_t panel_bytes(const Format &format, int64_t n_cols) {
    return round_up(static_cast<size_t>(n_cols / format.block_size) * (format.body_bytes + format.tail_bytes), 64);
}

// Where the body and the tail of a block are, counted from the panel.
struct BlockOffsets {
    size_t body, tail;
};
static inline BlockOffsets block_offsets(const Format &format, int64_t n_blocks, int64_t block) {
    const int64_t first = block / kRunBlocks * kRunBlocks, left = n_blocks - first;
    const size_t n = static_cast<size_t>(left < kRunBlocks ? left : kRunBlocks), at = static_cast<size_t>(block - first);
    const size_t run = static_cast<size_t>(first) * (format.body_bytes + format.tail_bytes);
    return {run + at * format.body_bytes, run + n * format.body_bytes + at * format.tail_bytes};
}

static inline size_t activation_block_bytes(Activation kind) {
    switch (kind) {
        case Activation::min256: return sizeof(ActivationMin256);
        case Activation::zero256: return sizeof(ActivationZero256);
        case Activation::float32: return sizeof(ActivationFloat32);
        default: return sizeof(ActivationZero32);
    }
}

// Activation blocks are as long as the weights', but floats come by 16, the last block with what is left.
static constexpr int kFloatsPerBlock = 16;

static inline int64_t activation_block_size(const Format &format) {
    return format.activation == Activation::float32 ? kFloatsPerBlock : format.block_size;
}
static inline int64_t n_activation_blocks(const Format &format, int64_t n_cols) {
    return (n_cols + activation_block_size(format) - 1) / activation_block_size(format);
}
// Elements of a block: all of them, or those that are left.
static inline int activation_block_length(const Format &format, int64_t n_cols, int64_t block) {
    const int64_t size = activation_block_size(format), left = n_cols - block * size;
    return static_cast<int>(left < size ? left : size);
}
// The blocks of one group of columns.
static inline size_t activation_group_bytes(const Format &format, int64_t n_cols) {
    return static_cast<size_t>(n_activation_blocks(format, n_cols)) * activation_block_bytes(format.activation);
}

}  // namespace ei
#endif
