// A row's group of 4 elements is one 32-bit word of a file's block and one lane of a panel, so packing works on words: all that it does to
// the 4 bytes of a word, it does to each alone.
#include "matmul/pack.h"

#include <cstring>

#include "core/compiler.h"
#include "edgeinfer_kernels.h"

namespace ei {
namespace {

uint32_t load_word(const uint8_t *at) {
    uint32_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// The lane of a row in an array [64] of bytes.
void store_lane(uint8_t *lanes, int row, uint32_t word) { std::memcpy(lanes + 4 * row, &word, sizeof word); }

constexpr uint32_t kNibbles = 0x0f0f0f0f;

// ---- One row of one block, from the file to groups in element order: low 4 bits and what is above them, in bytes.

template <int kGroups>
struct Groups {
    uint32_t low[kGroups], high[kGroups];
};

template <class Block>
void low_of_32(const Block &block, Groups<8> &to) {
    for (int g = 0; g < 4; ++g) {
        const uint32_t word = load_word(block.qs + 4 * g);
        to.low[g] = word & kNibbles;
        to.low[g + 4] = word >> 4 & kNibbles;
    }
}

// Bit i of qh belongs to element i. The product puts copies of 4 bits so that bit b of them lies at bit 8b.
template <class Block>
void high_of_32(const Block &block, Groups<8> &to) {
    const uint32_t bits = load_word(block.qh);
    for (int g = 0; g < 8; ++g) to.high[g] = (bits >> (4 * g) & 15) * 0x00204081 & 0x01010101;
}

void groups_of(const BlockQ4_0 &block, Groups<8> &to) { low_of_32(block, to); }
void groups_of(const BlockQ4_1 &block, Groups<8> &to) { low_of_32(block, to); }
void groups_of(const BlockQ5_0 &block, Groups<8> &to) { low_of_32(block, to), high_of_32(block, to); }
void groups_of(const BlockQ5_1 &block, Groups<8> &to) { low_of_32(block, to), high_of_32(block, to); }

// Sub-blocks 2n and 2n + 1 share 32 bytes: low nibbles and high nibbles.
template <class Block>
void low_of_256(const Block &block, Groups<64> &to) {
    for (int n = 0; n < 4; ++n) {
        for (int g = 0; g < 8; ++g) {
            const uint32_t word = load_word(block.qs + 32 * n + 4 * g);
            to.low[16 * n + g] = word & kNibbles;
            to.low[16 * n + 8 + g] = word >> 4 & kNibbles;
        }
    }
}

void groups_of(const BlockQ4_K &block, Groups<64> &to) { low_of_256(block, to); }

void groups_of(const BlockQ5_K &block, Groups<64> &to) {
    low_of_256(block, to);
    for (int s = 0; s < 8; ++s) {
        for (int g = 0; g < 8; ++g) to.high[8 * s + g] = load_word(block.qh + 4 * g) >> s & 0x01010101;
    }
}

// Each half of 128 elements: four runs of 32, in the low nibbles of ql[0..31], ql[32..63], then the high ones; two bits each in qh[0..31].
void groups_of(const BlockQ6_K &block, Groups<64> &to) {
    for (int half = 0; half < 2; ++half) {
        for (int run = 0; run < 4; ++run) {
            for (int g = 0; g < 8; ++g) {
                const int at = 32 * half + 8 * run + g;
                to.low[at] = load_word(block.ql + 64 * half + run % 2 * 32 + 4 * g) >> (run / 2 * 4) & kNibbles;
                to.high[at] = load_word(block.qh + 32 * half + 4 * g) >> (2 * run) & 0x03030303;
            }
        }
    }
}

// ---- Groups in element order, into a body.

// Pairs of groups, as low and high nibbles.
template <int kPairs>
void place_nibbles(uint8_t (*qs)[64], int row, const uint32_t *low) {
    for (int j = 0; j < kPairs; ++j) store_lane(qs[j], row, low[2 * j] | low[2 * j + 1] << 4);
}

// The upper bits of several groups, side by side in a byte.
template <int kGroups, int kBits>
void place_bits(uint8_t *qh, int row, const uint32_t *high) {
    uint32_t word = 0;
    for (int g = 0; g < kGroups; ++g) word |= high[g] << (kBits * g);
    store_lane(qh, row, word);
}

void place(const Groups<8> &from, int row, Nibbles &body) { place_nibbles<4>(body.qs, row, from.low); }

void place(const Groups<8> &from, int row, NibblesAndBits &body) {
    place_nibbles<4>(body.qs, row, from.low);
    place_bits<8, 1>(body.qh, row, from.high);
}

void place(const Groups<64> &from, int row, BodyQ4_K &body) {
    for (int s = 0; s < 8; ++s) place_nibbles<4>(body.qs[s], row, from.low + 8 * s);
}

void place(const Groups<64> &from, int row, BodyQ5_K &body) {
    for (int s = 0; s < 8; ++s) {
        place_nibbles<4>(body.qs[s], row, from.low + 8 * s);
        place_bits<8, 1>(body.qh[s], row, from.high + 8 * s);
    }
}

void place(const Groups<64> &from, int row, BodyQ6_K &body) {
    for (int s = 0; s < 16; ++s) {
        place_nibbles<2>(body.ql[s], row, from.low + 4 * s);
        place_bits<4, 2>(body.qh[s], row, from.high + 4 * s);
    }
}

template <int kGroups, class Block, class Body>
void move_quants(const Block &block, int row, Body &body) {
    Groups<kGroups> groups;
    groups_of(block, groups);
    place(groups, row, body);
}

void quants_of(const BlockQ4_0 &block, int row, Nibbles &body) { move_quants<8>(block, row, body); }
void quants_of(const BlockQ4_1 &block, int row, Nibbles &body) { move_quants<8>(block, row, body); }
void quants_of(const BlockQ5_0 &block, int row, NibblesAndBits &body) { move_quants<8>(block, row, body); }
void quants_of(const BlockQ5_1 &block, int row, NibblesAndBits &body) { move_quants<8>(block, row, body); }
void quants_of(const BlockQ4_K &block, int row, BodyQ4_K &body) { move_quants<64>(block, row, body); }
void quants_of(const BlockQ5_K &block, int row, BodyQ5_K &body) { move_quants<64>(block, row, body); }
void quants_of(const BlockQ6_K &block, int row, BodyQ6_K &body) { move_quants<64>(block, row, body); }

// Adding 128 turns the upper bit of each byte.
void quants_of(const BlockQ8_0 &block, int row, Bytes &body) {
    const uint8_t *const qs = reinterpret_cast<const uint8_t *>(block.qs);
    for (int g = 0; g < 8; ++g) store_lane(body.qs[g], row, load_word(qs + 4 * g) ^ 0x80808080);
}

// ---- Scales.

void scales_of(const BlockQ4_0 &block, int row, Nibbles &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ5_0 &block, int row, NibblesAndBits &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ8_0 &block, int row, Bytes &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ4_1 &block, int row, Nibbles &, TailScaleMin *tail) { tail->d[row] = block.d, tail->m[row] = block.m; }
void scales_of(const BlockQ5_1 &block, int row, NibblesAndBits &, TailScaleMin *tail) {
    tail->d[row] = block.d, tail->m[row] = block.m;
}

void scales_of(const BlockQ6_K &block, int row, BodyQ6_K &body, TailScale *tail) {
    for (int s = 0; s < 16; ++s) body.scale[s][row] = block.scales[s];
    tail->d[row] = block.d;
}

// ggml packs 8 scales and 8 mins of 6 bits into 12 bytes: the first four of each in the low 6 bits of bytes 0-3 and 4-7, the rest as
// nibbles in bytes 8-11 with their top bits above the first ones.
template <class Block, class Body>
void scales_of_six_bits(const Block &block, int row, Body &body) {
    const uint8_t *p = block.scales;
    int high[8];
    for (int s = 0; s < 8; ++s) {
        const int scale = s < 4 ? p[s] & 63 : (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
        const int min = s < 4 ? p[s + 4] & 63 : p[s + 4] >> 4 | (p[s] >> 6) << 4;
        body.scale_low[s][row] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
        high[s] = scale >> 4 | min >> 4 << 2;
    }
    for (int pair = 0; pair < 4; ++pair) body.scale_high[pair][row] = static_cast<uint8_t>(high[2 * pair] | high[2 * pair + 1] << 4);
    body.d[row] = block.d, body.dmin[row] = block.dmin;
}

struct NoTail {};
void scales_of(const BlockQ4_K &block, int row, BodyQ4_K &body, NoTail *) { scales_of_six_bits(block, row, body); }
void scales_of(const BlockQ5_K &block, int row, BodyQ5_K &body, NoTail *) { scales_of_six_bits(block, row, body); }

// ---- Panels. Rows past the last are zeros.

// Sixteen streams in and one out are more than the hardware prefetches. Rows are asked for this far ahead, and the panel as far for 16 rows.
constexpr size_t kAhead = 256;

template <size_t kBytes>
void prefetch(const uint8_t *at) {
    for (size_t i = 0; i < kBytes; i += 64) EI_PREFETCH(at + i);
}

void prefetch_beginnings(const uint8_t *rows, size_t row_bytes, int n_rows) {
    for (int row = 0; row < n_rows; ++row) prefetch<kAhead>(rows + static_cast<size_t>(row) * row_bytes);
}

template <class Block, class Body, class Tail>
void pack_panel(const Format &format, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t n_blocks, uint8_t *panel) {
    prefetch_beginnings(rows, row_bytes, n_rows);
    for (int64_t b = 0; b < n_blocks; ++b) {
        const BlockOffsets at = block_offsets(format, n_blocks, b);
        Body &body = *reinterpret_cast<Body *>(panel + at.body);
        Tail *const tail = reinterpret_cast<Tail *>(panel + at.tail);
        for (int row = 0; row < n_rows; ++row) {
            const uint8_t *const from = rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(b) * sizeof(Block);
            prefetch<sizeof(Block)>(from + kAhead);
            prefetch<sizeof(Block)>(panel + static_cast<size_t>(b * kPanelRows + row) * sizeof(Block) + kPanelRows * kAhead);
            const Block &block = *reinterpret_cast<const Block *>(from);
            quants_of(block, row, body);
            scales_of(block, row, body, tail);
        }
    }
}

// F32, F16 and BF16: the transpose, a cache line of a row at a time, so that rows which fall on the same cache sets do not drive each other
// out.
template <class Value>
void pack_floats(const Format &, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t n_cols, uint8_t *panel) {
    constexpr int64_t kStep = 64 / sizeof(Value);
    Value *to = reinterpret_cast<Value *>(panel);
    prefetch_beginnings(rows, row_bytes, n_rows);
    for (int64_t first = 0; first < n_cols; first += kStep, to += kStep * kPanelRows) {
        const int64_t n = n_cols - first < kStep ? n_cols - first : kStep;
        for (int row = 0; row < n_rows; ++row) {
            const uint8_t *const from = rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(first) * sizeof(Value);
            EI_PREFETCH(from + kAhead);
            EI_PREFETCH(reinterpret_cast<const uint8_t *>(to) + 64 * row + kPanelRows * kAhead);
            if (n == kStep) {
                Value line[kStep];
                std::memcpy(line, from, sizeof line);
                for (int64_t k = 0; k < kStep; ++k) to[k * kPanelRows + row] = line[k];
            } else {
                for (int64_t k = 0; k < n; ++k) {
                    std::memcpy(to + k * kPanelRows + row, from + static_cast<size_t>(k) * sizeof(Value), sizeof(Value));
                }
            }
        }
    }
}

using PackPanel = void (*)(const Format &, const uint8_t *, size_t, int, int64_t, uint8_t *);

PackPanel packer(int32_t id) {
    switch (id) {
        case EI_FORMAT_F32: return pack_floats<uint32_t>;
        case EI_FORMAT_F16:
        case EI_FORMAT_BF16: return pack_floats<uint16_t>;
        case EI_FORMAT_Q4_0:
        case EI_FORMAT_IQ4_NL: return pack_panel<BlockQ4_0, Nibbles, TailScale>;
        case EI_FORMAT_Q4_1: return pack_panel<BlockQ4_1, Nibbles, TailScaleMin>;
        case EI_FORMAT_Q5_0: return pack_panel<BlockQ5_0, NibblesAndBits, TailScale>;
        case EI_FORMAT_Q5_1: return pack_panel<BlockQ5_1, NibblesAndBits, TailScaleMin>;
        case EI_FORMAT_Q8_0: return pack_panel<BlockQ8_0, Bytes, TailScale>;
        case EI_FORMAT_Q4_K: return pack_panel<BlockQ4_K, BodyQ4_K, NoTail>;
        case EI_FORMAT_Q5_K: return pack_panel<BlockQ5_K, BodyQ5_K, NoTail>;
        default: return pack_panel<BlockQ6_K, BodyQ6_K, TailScale>;
    }
}

}  // namespace

void pack_panels(const Format &format, const void *rows, size_t row_bytes, int64_t n_rows, int64_t n_cols, void *panels,
                 int64_t first_panel, int64_t n_panels) {
    const PackPanel pack = packer(format.id);
    const int64_t n_blocks = n_cols / format.block_size;
    const size_t used = static_cast<size_t>(n_blocks) * (format.body_bytes + format.tail_bytes), bytes = panel_bytes(format, n_cols);
    for (int64_t p = first_panel; p < first_panel + n_panels; ++p) {
        const int64_t row = p * kPanelRows, left = n_rows - row;
        uint8_t *const panel = static_cast<uint8_t *>(panels) + static_cast<size_t>(p) * bytes;
        std::memset(panel + (left < kPanelRows ? 0 : used), 0, left < kPanelRows ? bytes : bytes - used);
        pack(format, static_cast<const uint8_t *>(rows) + static_cast<size_t>(row) * row_bytes, row_bytes,
             static_cast<int>(left < kPanelRows ? left : kPanelRows), n_blocks, panel);
    }
}

void unpack_block(const Format &format, const uint8_t *body, int row, uint8_t *q) {
    const uint8_t(*const nibbles)[64] = reinterpret_cast<const uint8_t(*)[64]>(body);
    for (int i = 0; i < format.block_size; ++i) {
        const int at = 4 * row + i % 4;
        if (format.id == EI_FORMAT_Q8_0) {
            q[i] = reinterpret_cast<const Bytes *>(body)->qs[i / 4][at];
            continue;
        }
        int value = nibbles[i / 8][at] >> (i / 4 % 2 * 4) & 15;
        if (format.id == EI_FORMAT_Q5_0 || format.id == EI_FORMAT_Q5_1) {
            value |= (reinterpret_cast<const NibblesAndBits *>(body)->qh[at] >> (i / 4) & 1) << 4;
        } else if (format.id == EI_FORMAT_Q5_K) {
            value |= (reinterpret_cast<const BodyQ5_K *>(body)->qh[i / 32][at] >> (i % 32 / 4) & 1) << 4;
        } else if (format.id == EI_FORMAT_Q6_K) {
            value |= (reinterpret_cast<const BodyQ6_K *>(body)->qh[i / 16][at] >> (i % 16 / 4 * 2) & 3) << 4;
        }
        q[i] = static_cast<uint8_t>(value);
    }
}

}  // namespace ei
