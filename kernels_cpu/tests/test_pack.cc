// Packing against its definition, element by element: where each bit of a file's block goes in a panel, and back by unpack_block.
#include "core/formats.h"
#include "matmul/pack.h"
#include "matmul_cases.h"

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

// ---- Quants in element order, into a body, which starts as zeros.

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


template <class Block, class Body, class Tail>
void pack_panel(const Format &format, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t n_blocks, uint8_t *panel) {
    uint8_t quants[256];
    for (int64_t b = 0; b < n_blocks; ++b) {
        const BlockOffsets at = block_offsets(format, n_blocks, b);
        Body &body = *reinterpret_cast<Body *>(panel + at.body);
        Tail *const tail = reinterpret_cast<Tail *>(panel + at.tail);
        for (int row = 0; row < n_rows; ++row) {
            Block block;
            std::memcpy(&block, rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(b) * sizeof block, sizeof block);
            quants_of(block, quants);
            place(body, row, quants);
            scales_of(block, row, body, tail);
        }
    }
}

template <class Value, class Body>
void pack_floats(const Format &, const uint8_t *rows, size_t row_bytes, int n_rows, int64_t n_cols, uint8_t *panel) {
    for (int64_t k = 0; k < n_cols; ++k) {
        for (int row = 0; row < n_rows; ++row) {
            std::memcpy(&reinterpret_cast<Body *>(panel)[k].x[row],
                        rows + static_cast<size_t>(row) * row_bytes + static_cast<size_t>(k) * sizeof(Value), sizeof(Value));
        }
    }
}

using PackPanel = void (*)(const Format &, const uint8_t *, size_t, int, int64_t, uint8_t *);

PackPanel definition(int32_t id) {
    switch (id) {
        case EI_FORMAT_F32: return pack_floats<float, BodyF32>;
        case EI_FORMAT_F16:
        case EI_FORMAT_BF16: return pack_floats<uint16_t, BodyF16>;
        case EI_FORMAT_Q4_0:
        case EI_FORMAT_IQ4_NL: return pack_panel<BlockQ4_0, Nibbles, TailScale>;
        case EI_FORMAT_Q4_1: return pack_panel<BlockQ4_1, Nibbles, TailScaleMin>;
        case EI_FORMAT_Q5_0: return pack_panel<BlockQ5_0, NibblesAndBits, TailScale>;
        case EI_FORMAT_Q5_1: return pack_panel<BlockQ5_1, NibblesAndBits, TailScaleMin>;
        case EI_FORMAT_Q8_0: return pack_panel<BlockQ8_0, Bytes, TailScale>;
        case EI_FORMAT_Q4_K: return pack_panel<BlockQ4_K, BodyQ4_K, NoTail>;
        case EI_FORMAT_Q5_K: return pack_panel<BlockQ5_K, BodyQ5_K, NoTail>;
        case EI_FORMAT_Q6_K: return pack_panel<BlockQ6_K, BodyQ6_K, TailScale>;
        default: return nullptr;
    }
}

void check_format(Random &random, const Format &format, int64_t n_rows, int64_t n_blocks) {
    const int64_t n_cols = n_blocks * format.block_size, n_panels = ei_n_panels(n_rows);
    const cases::Case c(random, format, cases::Values::wild, n_rows, n_cols, 1);
    const size_t bytes = panel_bytes(format, n_cols), total = ei_packed_bytes(format.id, n_rows, n_cols);
    Buffer want(total), got(total);
    std::memset(want.data(), 0, total);
    for (int64_t p = 0; p < n_panels; ++p) {
        const int64_t left = n_rows - p * kPanelRows;
        definition(format.id)(format, c.rows.data() + static_cast<size_t>(p * kPanelRows) * c.row_bytes(), c.row_bytes(),
                              static_cast<int>(left < kPanelRows ? left : kPanelRows), n_blocks,
                              want.data() + static_cast<size_t>(p) * bytes);
    }
    // In two calls, as threads share panels out; the second first.
    const int64_t middle = n_panels / 2;
    ei_pack(format.id, c.rows.data(), c.row_bytes(), n_rows, n_cols, got.data(), middle, n_panels - middle);
    for (size_t i = 0; i < static_cast<size_t>(middle) * bytes; ++i) {
        CHECK(got.data()[i] == 0xa5, "%s: wrote to another panel", format.name);
    }
    ei_pack(format.id, c.rows.data(), c.row_bytes(), n_rows, n_cols, got.data(), 0, middle);
    CHECK(std::memcmp(want.data(), got.data(), total) == 0, "%s rows %d blocks %d", format.name, static_cast<int>(n_rows),
          static_cast<int>(n_blocks));
    CHECK(got.data()[total] == 0xa5, "%s: wrote past the end", format.name);
}

// One block of 16 rows there and back.
template <class Block>
void check_return(Random &random, int32_t id) {
    const Format &format = *find_format(id);
    cases::Case c(random, format, cases::Values::wild, kPanelRows, format.block_size, 1);
    for (int row = 0; row < kPanelRows; ++row) {
        Block block;
        uint8_t want[256], got[256];
        std::memcpy(&block, c.rows.data() + static_cast<size_t>(row) * sizeof block, sizeof block);
        quants_of(block, want);
        unpack_block(format, c.packed.data(), row, got);
        CHECK(std::memcmp(want, got, static_cast<size_t>(format.block_size)) == 0, "%s row %d", format.name, row);
    }
}

}  // namespace
}  // namespace ei

int main() {
    Random random(1);
    for (int32_t id = 0; id < 64; ++id) {
        const ei::Format *format = ei::find_format(id);
        if (format == nullptr) continue;
        CHECK(ei::definition(id) != nullptr, "%s has no definition here", format->name);
        // Whole panels, odd rows, less than a panel; less than a run of blocks, a run, runs and a rest.
        for (const int64_t n_rows : {1, 15, 16, 17, 32, 47}) {
            for (const int64_t n_blocks : {1, 7, 8, 9, 17, 32, 33, 100}) ei::check_format(random, *format, n_rows, n_blocks);
        }
    }
    ei::check_return<ei::BlockQ4_0>(random, EI_FORMAT_Q4_0);
    ei::check_return<ei::BlockQ4_1>(random, EI_FORMAT_Q4_1);
    ei::check_return<ei::BlockQ5_0>(random, EI_FORMAT_Q5_0);
    ei::check_return<ei::BlockQ5_1>(random, EI_FORMAT_Q5_1);
    ei::check_return<ei::BlockQ8_0>(random, EI_FORMAT_Q8_0);
    ei::check_return<ei::BlockQ4_K>(random, EI_FORMAT_Q4_K);
    ei::check_return<ei::BlockQ5_K>(random, EI_FORMAT_Q5_K);
    ei::check_return<ei::BlockQ6_K>(random, EI_FORMAT_Q6_K);
    ei::check_return<ei::BlockQ4_0>(random, EI_FORMAT_IQ4_NL);
    return check::result();
}
