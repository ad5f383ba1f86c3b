// How a unit's cells are dealt out to parts, and what scratch memory a part needs.
#ifndef EI_ATTENTION_PARTS_H
#define EI_ATTENTION_PARTS_H

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

constexpr int kTileCells = 64;

// Cells of each part but the last ones, which may have fewer or none.
EI_INLINE int64_t part_cells(int64_t n_kv, int n_parts) {
    return static_cast<int64_t>(round_up(static_cast<size_t>((n_kv + n_parts - 1) / n_parts), kTileCells));
}

// The sum of what carve_scratch in unit.h hands out for that many cells, rounded up generously.
EI_INLINE size_t part_bytes(int64_t n_cells, int64_t head_dim, int n_tokens, int n_heads) {
    const size_t n = round_up(static_cast<size_t>(n_cells), kTileCells) + kTileCells, d = static_cast<size_t>(head_dim);
    const size_t tokens = static_cast<size_t>(n_tokens), rows = tokens * static_cast<size_t>(n_heads);
    return round_up(n * 8 + tokens * n / 8 + rows * (8 * d + 28 + 4 * n) + kTileCells * d * 4 + tokens * kTileCells * 4 + 16 * 64, 64);
}

}  // namespace
}  // namespace ei
#endif
