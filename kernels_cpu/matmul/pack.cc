#include "matmul/pack.h"

#include <cstring>

#include "edgeinfer_kernels.h"

namespace ei {
namespace {

// Byte of an array [64]: element i of its group, of this row.
constexpr int lane(int row, int i) { return 4 * row + i % 4; }

// ---- One row of one block, from the file to quants in element order.

void quants_of(const BlockQ4_0 &block, uint8_t *q) {
    for (int i = 0; i < 16; ++i) q[i] = block.qs[i] & 15, q[i + 16] = block.qs[i] >> 4;
}

void quants_of(const BlockQ4_1 &block, uint8_t *q) {
    for (int i = 0; i < 16; ++i) q[i] = block.qs[i] & 15, q[i + 16] = block.qs[i] >> 4;
}

template <class Block5>
void quants_of_five_bits(const Block5 &block, uint8_t *q) {
    for (int i = 0; i < 32; ++i) {
        const int low = i < 16 ? block.qs[i] & 15 : block.qs[i - 16] >> 4;
        q[i] = static_cast<uint8_t>(low | (block.qh[i / 8] >> i % 8 & 1) << 4);
    }
}

void quants_of(const BlockQ5_0 &block, uint8_t *q) { quants_of_five_bits(block, q); }
void quants_of(const BlockQ5_1 &block, uint8_t *q) { quants_of_five_bits(block, q); }

void quants_of(const BlockQ8_0 &block, uint8_t *q) {
    for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(block.qs[i] + 128);
}

// Sub-blocks 2n and 2n + 1 share 32 bytes: low nibbles and high nibbles.
void quants_of(const BlockQ4_K &block, uint8_t *q) {
    for (int i = 0; i < 256; ++i) q[i] = block.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}

void quants_of(const BlockQ5_K &block, uint8_t *q) {
    for (int i = 0; i < 256; ++i) {
        const int low = block.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        q[i] = static_cast<uint8_t>(low | (block.qh[i % 32] >> (i / 32) & 1) << 4);
    }
}

// Each half of 128 elements: four runs of 32, in the low nibbles of ql[0..31], ql[32..63], then the high ones; two bits each in qh[0..31].
void quants_of(const BlockQ6_K &block, uint8_t *q) {
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, run = i % 128 / 32, at = i % 32;
        const int low = block.ql[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
        q[i] = static_cast<uint8_t>(low | (block.qh[half * 32 + at] >> (2 * run) & 3) << 4);
    }
}

// ---- Quants in element order, into a body (which starts as zeros).

void place(Nibbles &body, int row, const uint8_t *q) {
    for (int i = 0; i < 32; ++i) body.qs[i / 8][lane(row, i)] |= static_cast<uint8_t>(q[i] << (i / 4 % 2 * 4));
}

void place(NibblesAndBits &body, int row, const uint8_t *q) {
    for (int i = 0; i < 32; ++i) {
        body.qs[i / 8][lane(row, i)] |= static_cast<uint8_t>((q[i] & 15) << (i / 4 % 2 * 4));
        body.qh[lane(row, i)] |= static_cast<uint8_t>(q[i] >> 4 << (i / 4));
    }
}

void place(Bytes &body, int row, const uint8_t *q) {
    for (int i = 0; i < 32; ++i) body.qs[i / 4][lane(row, i)] = q[i];
}

void place(BodyQ4_K &body, int row, const uint8_t *q) {
    for (int i = 0; i < 256; ++i) body.qs[i / 32][i % 32 / 8][lane(row, i)] |= static_cast<uint8_t>(q[i] << (i / 4 % 2 * 4));
}

void place(BodyQ5_K &body, int row, const uint8_t *q) {
    for (int i = 0; i < 256; ++i) {
        body.qs[i / 32][i % 32 / 8][lane(row, i)] |= static_cast<uint8_t>((q[i] & 15) << (i / 4 % 2 * 4));
        body.qh[i / 32][lane(row, i)] |= static_cast<uint8_t>(q[i] >> 4 << (i % 32 / 4));
    }
}

void place(BodyQ6_K &body, int row, const uint8_t *q) {
    for (int i = 0; i < 256; ++i) {
        body.ql[i / 16][i % 16 / 8][lane(row, i)] |= static_cast<uint8_t>((q[i] & 15) << (i / 4 % 2 * 4));
        body.qh[i / 16][lane(row, i)] |= static_cast<uint8_t>(q[i] >> 4 << (i % 16 / 4 * 2));
    }
}

// ---- Scales.

void scales_of(const BlockQ4_0 &block, int row, Nibbles &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ5_0 &block, int row, NibblesAndBits &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ8_0 &block, int row, Bytes &, TailScale *tail) { tail->d[row] = block.d; }
void scales_of(const BlockQ4_1 &block, int row, Nibbles &, TailScaleMin *tail) { tail->d[row] = block.d, tail->m[row] = block.m; }
void scales_of(const BlockQ5_1 &block, int row, NibblesAndBits &, TailScaleMin *tail) { tail->d[row] = block.d, tail->m[row] = block.m; }

void scales_of(const BlockQ6_K &block, int row, BodyQ6_K &body, TailScale *tail) {
    for (int s = 0; s < 16; ++s) body.scale[s][row] = block.scales[s];
    tail->d[row] = block.d;
}

// ggml packs 8 scales and 8 mins of 6 bits into 12 bytes: the first four of each in the low 6 bits of bytes 0-3 and 4-7, the rest as
// nibbles in bytes 8-11 with their top bits above the first ones.
template <class Block, class Body>
void scales_of_six_bits(const Block &block, int row, Body &body) {
    const uint8_t *p = block.scales;
    for (int s = 0; s < 8; ++s) {
        const int scale = s < 4 ? p[s] & 63 : (p[s + 4] & 15) | (p[s - 4] >> 6) << 4;
        const int min = s < 4 ? p[s + 4] & 63 : p[s + 4] >> 4 | (p[s] >> 6) << 4;
        body.scale_low[s][row] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
        body.scale_high[s / 2][row] |= static_cast<uint8_t>((scale >> 4 | min >> 4 << 2) << (s % 2 * 4));
    }
    body.d[row] = block.d, body.dmin[row] = block.dmin;
}

struct NoTail {};
void scales_of(const BlockQ4_K &block, int row, BodyQ4_K &body, NoTail *) { scales_of_six_bits(block, row, body); }
void scales_of(const BlockQ5_K &block, int row, BodyQ5_K &body, NoTail *) { scales_of_six_bits(block, row, body); }

// ---- Panels.

template <class Block, class Body, class Tail>
void pack_panel(const Format &format, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t n_blocks, uint8_t *panel) {
    std::memset(panel, 0, static_cast<size_t>(n_blocks) * (format.body_bytes + format.tail_bytes));
    uint8_t quants[256];
    for (int64_t b = 0; b < n_blocks; ++b) {
        const BlockOffsets at = block_offsets(format, n_blocks, b);
        Body &body = *reinterpret_cast<Body *>(panel + at.body);
        Tail *const tail = reinterpret_cast<Tail *>(panel + at.tail);
        for (int row = 0; row < n_rows; ++row) {
            Block block;
            std::memcpy(&block, rows + row * row_bytes + b * static_cast<int64_t>(sizeof block), sizeof block);
            quants_of(block, quants);
            place(body, row, quants);
            scales_of(block, row, body, tail);
        }
    }
}

using PackPanel = void (*)(const Format &, const uint8_t *, size_t, int, int64_t, uint8_t *);

PackPanel packer(int32_t id) {
    switch (id) {
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
    for (int64_t p = first_panel; p < first_panel + n_panels; ++p) {
        const int64_t row = p * kPanelRows, left = n_rows - row;
        pack(format, static_cast<const uint8_t *>(rows) + static_cast<size_t>(row) * row_bytes, row_bytes,
             static_cast<int>(left < kPanelRows ? left : kPanelRows), n_blocks,
             static_cast<uint8_t *>(panels) + static_cast<size_t>(p) * panel_bytes(format, n_cols));
    }
}

void unpack_block(const Format &format, const uint8_t *body, int row, uint8_t *q) {
    const uint8_t(*const nibbles)[64] = reinterpret_cast<const uint8_t(*)[64]>(body);
    for (int i = 0; i < format.block_size; ++i) {
        const int at = lane(row, i);
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
