// Between rows of a GGUF file and panels: all weights pass through here as a model loads. tests/test_pack.cc has it element by element.
#ifndef EI_MATMUL_PACK_H
#define EI_MATMUL_PACK_H

#include "core/formats.h"

namespace ei {

// Pack rows [16 * first_panel, 16 * (first_panel + n_panels)) of a matrix of n_rows x n_cols whose rows lie at `rows`, row_bytes apart,
// to `panels` (the address of panel 0).
void pack_panels(const Format &format, const void *rows, size_t row_bytes, int64_t n_rows, int64_t n_cols, void *panels,
                 int64_t first_panel, int64_t n_panels);

// Quants of one row of one block as they are stored (0 .. 15, 31, 63, or 255), in element order; for formats that have quants.
void unpack_block(const Format &format, const uint8_t *body, int row, uint8_t *quants);

// The 6-bit scale and min of Q4_K and Q5_K.
struct ScaleMin {
    uint8_t scale, min;
};
static inline ScaleMin scale_min(const uint8_t low[8][16], const uint8_t high[4][16], int sub_block, int row) {
    const int l = low[sub_block][row], h = high[sub_block / 2][row] >> (sub_block % 2 * 4) & 15;
    return {static_cast<uint8_t>((l & 15) | (h & 3) << 4), static_cast<uint8_t>(l >> 4 | (h >> 2) << 4)};
}

}  // namespace ei
#endif
