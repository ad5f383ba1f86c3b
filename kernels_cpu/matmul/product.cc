#include "matmul/product.h"

#include "core/isa.h"

namespace ei {
namespace {

constexpr int64_t kGroup = kGroupColumns, kFewGroups = 2;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where a group's results go.
struct Outputs {
    float *column[kGroup];
    int n;

    Outputs() = default;
    Outputs(const Product &p, const Columns &out, int64_t group) : n(p.group_size(group)) {
        for (int c = 0; c < n; ++c) column[c] = out[p.first_column(group) + c];
    }
};

// One group of columns with panels [first, last).
void multiply_group(const Product &p, const void *packed, const char *activations, int64_t group, const Outputs &outputs, int64_t first,
                    int64_t last) {
    float *out[kGroup];
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t row = panel * kPanelRows;
        for (int c = 0; c < outputs.n; ++c) out[c] = outputs.column[c] + row;
        multiply_terms(*p.matmul,
                       {static_cast<const uint8_t *>(packed) + static_cast<size_t>(panel) * p.panel_bytes,
                        reinterpret_cast<const uint8_t *>(activations) + static_cast<size_t>(group) * p.group_bytes, p.n_blocks, out,
                        outputs.n, static_cast<int>(std::min<int64_t>(kPanelRows, p.n_rows - row))},
                       p.n_terms);
    }
}

}  // namespace

Product::Product(int32_t format_id, int64_t n_cols_, int64_t n_rows_, int64_t n_columns_, int n_terms_)
    : format(find_format(format_id)),
      quantize(choose_kernel(Op::quantize, quantizer(format->activation), ei_best_isa())),
      matmul(choose_kernel(Op::matmul, format_id, ei_best_isa())),
      n_cols(n_cols_),
      n_rows(n_rows_),
      n_columns(n_columns_),
      n_blocks(n_cols / format->block_size),
      n_x_blocks(n_activation_blocks(*format, n_cols)),
      n_groups(divide_up(n_columns, columns_in_group(n_terms_))),
      n_panels(divide_up(n_rows, kPanelRows)),
      block_bytes(activation_block_bytes(format->activation)),
      group_bytes(activation_group_bytes(*format, n_cols)),
      panel_bytes(ei::panel_bytes(*format, n_cols)),
      n_terms(n_terms_) {}

int64_t Product::chunk_panels(int n_threads) const {
    const int64_t share = divide_up(n_panels, 4 * int64_t{n_threads});
    if (n_groups <= kFewGroups) return std::min<int64_t>(share, 64);
    return std::max<int64_t>(1, std::min<int64_t>(share, static_cast<int64_t>((256 << 10) / panel_bytes)));
}

void Product::quantize_items(const Columns &x, char *activations, int64_t first, int64_t last) const {
    for (int64_t item = first; item < last; ++item) {
        const int64_t group = item / n_x_blocks, block = item % n_x_blocks;
        const float *columns[kGroup];
        const int n = group_size(group);
        for (int c = 0; c < n; ++c) columns[c] = x[first_column(group) + c] + block * activation_block_size(*format);
        quantize_terms(*quantize,
                       {format->activation, format->zero_point, columns, n, activations + static_cast<size_t>(item) * block_bytes,
                        activation_block_length(*format, n_cols, block)},
                       n_terms);
    }
}

// With few groups weights come from memory, and a panel is used up before the next; with many the groups take turns on panels that stay in
// the second-level cache.
void Product::multiply(const void *packed, const char *activations, const Columns &out, int64_t first, int64_t last) const {
    if (n_groups <= kFewGroups) {
        Outputs outputs[kFewGroups];
        for (int64_t group = 0; group < n_groups; ++group) outputs[group] = Outputs(*this, out, group);
        for (int64_t panel = first; panel < last; ++panel) {
            for (int64_t group = 0; group < n_groups; ++group) {
                multiply_group(*this, packed, activations, group, outputs[group], panel, panel + 1);
            }
        }
        return;
    }
    const int64_t step = chunk_panels(1);
    for (int64_t at = first; at < last; at += step) {
        for (int64_t group = 0; group < n_groups; ++group) {
            multiply_group(*this, packed, activations, group, Outputs(*this, out, group), at, std::min(at + step, last));
        }
    }
}

}  // namespace ei
