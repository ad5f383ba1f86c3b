// How a product of a packed matrix with many columns is shared out among threads, whoever they belong to: which of x is quantized in one
// go, which panels are taken together, in which order groups of columns pass over them. Knows neither ggml nor ONNX Runtime.
#ifndef EI_MATMUL_PRODUCT_H
#define EI_MATMUL_PRODUCT_H

#include <algorithm>

#include "matmul/terms.h"

namespace ei {

// Columns of x or of a result: floats side by side, counted through up to three outer dimensions.
struct Columns {
    char *data;
    int64_t n1, n2;         // columns in the first outer dimension, and how many of those in the second
    size_t stride1, stride2, stride3;  // bytes

    float *operator[](int64_t index) const {
        if (index < n1) return reinterpret_cast<float *>(data + static_cast<size_t>(index) * stride1);
        const int64_t i1 = index % n1, i2 = index / n1 % n2, i3 = index / n1 / n2;
        return reinterpret_cast<float *>(data + static_cast<size_t>(i1) * stride1 + static_cast<size_t>(i2) * stride2 +
                                         static_cast<size_t>(i3) * stride3);
    }
};

struct Product {
    const Format *format;
    const Kernel *quantize, *matmul;
    int64_t n_cols, n_rows, n_columns, n_blocks, n_x_blocks, n_groups, n_panels;
    size_t block_bytes, group_bytes, panel_bytes;
    int n_terms;  // of x: 1, or 2 where the format has them (matmul/terms.h)

    Product() = default;
    // With the kernels in use; the format is one of ei_has_matmul.
    Product(int32_t format_id, int64_t n_cols_, int64_t n_rows_, int64_t n_columns_, int n_terms_ = 1);

    int64_t first_column(int64_t group) const { return group * columns_in_group(n_terms); }
    int group_size(int64_t group) const { return static_cast<int>(std::min<int64_t>(columns_in_group(n_terms), n_columns - first_column(group))); }
    int64_t n_items() const { return n_groups * n_x_blocks; }
    size_t activation_bytes() const { return static_cast<size_t>(n_groups) * group_bytes; }
    // Whether x is so small that quantizing it costs less than meeting other threads.
    bool small_x() const { return n_terms * n_columns * n_cols <= 16384; }
    size_t packed_bytes() const { return static_cast<size_t>(n_panels) * panel_bytes; }

    // Panels that a thread takes at once. Few columns: a quarter of its share, so that a thread that was held up does not hold up the
    // others. Many: as much as stays in the second-level cache while every group of columns passes over it.
    int64_t chunk_panels(int n_threads) const;
    // Items [first, last) of x to their places in `activations`.
    void quantize_items(const Columns &x, char *activations, int64_t first, int64_t last) const;
    // Panels [first, last) of the matrix at `packed` with all columns.
    void multiply(const void *packed, const char *activations, const Columns &out, int64_t first, int64_t last) const;
};

}  // namespace ei
#endif
