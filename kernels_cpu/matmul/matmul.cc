// The C ABI of matrix products: which kernel, which panel, which group of columns.
#include "core/isa.h"
#include "core/kernel.h"
#include "matmul/pack.h"

namespace ei {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace ei

extern "C" {

int32_t ei_has_matmul(int32_t format, int64_t n_cols) {
    const ei::Format *known = ei::find_format(format);
    return known != nullptr && n_cols > 0 && n_cols % known->block_size == 0;
}

int32_t ei_matmul_isa(int32_t format, int32_t isa) {
    const ei::Kernel *kernel = ei::find_format(format) ? ei::choose_kernel(ei::Op::matmul, format, isa) : nullptr;
    return kernel ? kernel->isa : -1;
}

int32_t ei_quantize_isa(int32_t format, int32_t isa) {
    const ei::Format *known = ei::find_format(format);
    const ei::Kernel *kernel = known ? ei::choose_kernel(ei::Op::quantize, ei::quantizer(known->activation), isa) : nullptr;
    return kernel ? kernel->isa : -1;
}

int64_t ei_n_panels(int64_t n_rows) { return ei::divide_up(n_rows, ei::kPanelRows); }

size_t ei_packed_bytes(int32_t format, int64_t n_rows, int64_t n_cols) {
    return static_cast<size_t>(ei_n_panels(n_rows)) * ei::panel_bytes(*ei::find_format(format), n_cols);
}

void ei_pack(int32_t format, const void *rows, size_t row_bytes, int64_t n_rows, int64_t n_cols, void *packed, int64_t first_panel,
             int64_t n_panels) {
    ei::pack_panels(*ei::find_format(format), rows, row_bytes, n_rows, n_cols, packed, first_panel, n_panels);
}

size_t ei_activation_bytes(int32_t format, int64_t n_cols, int64_t n_columns) {
    return static_cast<size_t>(ei::divide_up(n_columns, ei::kGroupColumns)) * ei::activation_group_bytes(*ei::find_format(format), n_cols);
}

int64_t ei_n_quantize_items(int32_t format, int64_t n_cols, int64_t n_columns) {
    return ei::divide_up(n_columns, ei::kGroupColumns) * ei::n_activation_blocks(*ei::find_format(format), n_cols);
}

void ei_quantize(int32_t isa, int32_t format, const float *columns, size_t column_stride, int64_t n_cols, int64_t n_columns,
                 void *activations, int64_t first_item, int64_t n_items) {
    const ei::Format &known = *ei::find_format(format);
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::quantize, ei::quantizer(known.activation), isa);
    const int64_t n_blocks = ei::n_activation_blocks(known, n_cols);
    const size_t block_bytes = ei::activation_block_bytes(known.activation);
    // Groups are filled one after the other; the last may be smaller. An item is a block of a group.
    for (int64_t item = first_item; item < first_item + n_items; ++item) {
        const int64_t first = item / n_blocks * ei::kGroupColumns, left = n_columns - first, block = item % n_blocks;
        const float *at[ei::kGroupColumns];
        const int n = static_cast<int>(left < ei::kGroupColumns ? left : ei::kGroupColumns);
        for (int c = 0; c < n; ++c) {
            at[c] = columns + static_cast<size_t>(first + c) * column_stride + block * ei::activation_block_size(known);
        }
        kernel->quantize({known.activation, known.zero_point, at, n, static_cast<uint8_t *>(activations) + item * block_bytes,
                          ei::activation_block_length(known, n_cols, block)});
    }
}

void ei_matmul(int32_t isa, int32_t format, const void *packed, int64_t n_rows, int64_t n_cols, const void *activations,
               int64_t n_columns, float *out, size_t out_stride, int64_t first_panel, int64_t n_panels) {
    const ei::Format &known = *ei::find_format(format);
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::matmul, format, isa);
    const size_t panel_bytes = ei::panel_bytes(known, n_cols), group_bytes = ei::activation_group_bytes(known, n_cols);
    // One group of columns with one panel after the other: the activations are what every instruction reads, so they stay in the first-level
    // cache, and the panels of a call, which should fit the second, come back for each group. With few groups weights come from memory:
    // a panel is used up before the next.
    const int64_t n_groups = ei::divide_up(n_columns, ei::kGroupColumns);
    const int64_t step = n_groups <= 2 ? 1 : n_panels;
    for (int64_t first = first_panel; first < first_panel + n_panels; first += step) {
        for (int64_t group = 0; group < n_groups; ++group) {
            const int64_t column = group * ei::kGroupColumns, left = n_columns - column;
            const int n = static_cast<int>(left < ei::kGroupColumns ? left : ei::kGroupColumns);
            for (int64_t panel = first; panel < first + step; ++panel) {
                const int64_t row = panel * ei::kPanelRows, rows = n_rows - row;
                float *at[ei::kGroupColumns];
                for (int c = 0; c < n; ++c) at[c] = out + static_cast<size_t>(column + c) * out_stride + row;
                kernel->matmul({static_cast<const uint8_t *>(packed) + panel * panel_bytes,
                                static_cast<const uint8_t *>(activations) + group * group_bytes, n_cols / known.block_size, at, n,
                                static_cast<int>(rows < ei::kPanelRows ? rows : ei::kPanelRows)});
            }
        }
    }
}

}  // extern "C"
