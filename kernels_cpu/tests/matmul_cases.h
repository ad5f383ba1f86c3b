// Matrices and columns that make every kind of trouble, and their products by a kernel.
#ifndef EI_TESTS_MATMUL_CASES_H
#define EI_TESTS_MATMUL_CASES_H

#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/half.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "random.h"

namespace cases {

// Ordinary; nothing but zeros and subnormals where a factor is a float; any bits at all (subnormal, infinite, NaN); the largest quants of one
// sign times the largest activations of one sign, which fill whatever an accumulator holds, and activations halfway between two integers.
enum class Values { normal, tiny, wild, extreme };
constexpr Values kAllValues[] = {Values::normal, Values::tiny, Values::wild, Values::extreme};

inline const char *name(Values values) {
    constexpr const char *kNames[] = {"normal", "tiny", "wild", "extreme"};
    return kNames[static_cast<int>(values)];
}

inline bool is_float(const ei::Format &format) { return format.activation == ei::Activation::float32; }

// A weight of F32, F16 or BF16, as its bits.
inline uint32_t float_weight(Random &random, int32_t format, Values values) {
    const float x = random.unit() * 0.1f;
    const uint32_t any = static_cast<uint32_t>(random.next() >> 20);
    const bool strange = values == Values::wild && random.below(16) == 0;
    if (format == EI_FORMAT_F32) return strange ? any : values == Values::tiny ? any & 0x807fffff : ei::float_bits(x);
    if (format == EI_FORMAT_F16) return strange ? any & 0xffff : values == Values::tiny ? any & 0x83ff : ei::float_to_half(x);
    return strange ? any & 0xffff : values == Values::tiny ? any & 0x807f : ei::float_bits(x) >> 16;
}

inline void fill_rows(Random &random, const ei::Format &format, Values values, std::vector<uint8_t> &rows) {
    for (uint8_t &byte : rows) byte = static_cast<uint8_t>(random.next() >> 40);
    for (size_t at = 0; at < rows.size(); at += format.block_bytes) {
        if (is_float(format)) {
            const uint32_t bits = float_weight(random, format.id, values);
            std::memcpy(rows.data() + at, &bits, format.block_bytes);
            continue;
        }
        if (values == Values::wild) continue;
        constexpr uint8_t kExtremes[] = {0x00, 0x7f, 0x80, 0xff};
        if (values == Values::extreme) std::memset(rows.data() + at, kExtremes[random.below(4)], format.block_bytes);
        const uint16_t d = values != Values::tiny ? ei::float_to_half(random.unit() * 0.1f) : 0;
        const uint16_t m = ei::float_to_half(random.unit() * 0.1f);
        const bool last = format.id == EI_FORMAT_Q6_K;
        std::memcpy(rows.data() + at + (last ? format.block_bytes - 2 : 0), &d, 2);
        const bool two = format.activation == ei::Activation::min32 || format.activation == ei::Activation::min256;
        if (two) std::memcpy(rows.data() + at + 2, &m, 2);
    }
}

inline void fill_columns(Random &random, Values values, std::vector<float> &x) {
    for (float &value : x) value = random.unit() * (random.below(50) ? 1.0f : 40.0f);
    if (values == Values::tiny) {
        for (size_t i = 0; i < x.size(); ++i) x[i] = i / 256 % 2 ? 0.0f : i % 7 ? 1e-32f : -0.0f;
    } else if (values == Values::extreme) {
        for (size_t i = 0; i < x.size(); i += 32) {
            const int kind = random.below(3);
            for (size_t j = i; j < i + 32 && j < x.size(); ++j) {
                x[j] = kind == 0 ? 127.0f : kind == 1 ? -127.0f : static_cast<float>(random.below(509) - 254) * 0.5f;
            }
            x[i] = x[i] < 0 ? -127.0f : 127.0f;  // so that the factor is 1
        }
    } else if (values == Values::wild) {
        for (float &value : x) {
            const uint32_t bits = static_cast<uint32_t>(random.next() >> 20);
            if (random.below(8) == 0) std::memcpy(&value, &bits, 4);
        }
        if (x.size() > 300) x[static_cast<size_t>(random.below(300))] = HUGE_VALF;
    }
}

struct Case {
    const ei::Format &format;
    int64_t n_rows, n_cols, n_columns;
    std::vector<uint8_t> rows;
    std::vector<float> x;
    Buffer packed;

    size_t row_bytes() const { return static_cast<size_t>(n_cols / format.block_size) * format.block_bytes; }

    Case(Random &random, const ei::Format &format_, Values values, int64_t n_rows_, int64_t n_cols_, int64_t n_columns_)
        : format(format_), n_rows(n_rows_), n_cols(n_cols_), n_columns(n_columns_), rows(static_cast<size_t>(n_rows) * row_bytes()),
          x(static_cast<size_t>(n_cols * n_columns)), packed(ei_packed_bytes(format.id, n_rows, n_cols)) {
        fill_rows(random, format, values, rows);
        fill_columns(random, values, x);
        pack();
    }
    void pack() { ei_pack(format.id, rows.data(), row_bytes(), n_rows, n_cols, packed.data(), 0, ei_n_panels(n_rows)); }
};

// Calls run(case, values) for every number of columns up to 8 and for several groups of them, with odd rows and with columns that are
// several runs of blocks and, where the format allows it, no multiple of anything.
template <class Run>
void for_each_case(Random &random, const ei::Format &format, Run run) {
    for (const Values values : kAllValues) {
        for (int64_t n_columns = 1; n_columns <= 8; ++n_columns) {
            const int64_t most_blocks = is_float(format) ? 100 : format.block_size == 256 ? 4 : 20;
            const int64_t n_cols = format.block_size * (1 + random.below(static_cast<int>(most_blocks)));
            run(Case(random, format, values, 1 + random.below(40), n_cols, n_columns), values);
        }
        run(Case(random, format, values, 33, format.block_size * (is_float(format) ? 163 : 9), 17), values);
    }
}

constexpr float kUntouched = -7.0f;

inline std::vector<float> empty_result(const Case &c) {
    return std::vector<float>(static_cast<size_t>(c.n_rows * c.n_columns) + 16, kUntouched);
}

inline void check_end(const std::vector<float> &out) {
    for (size_t i = out.size() - 16; i < out.size(); ++i) CHECK(out[i] == kUntouched, "wrote past the end");
}

inline Buffer quantized(int32_t isa, const Case &c, const float *x, int64_t n_columns) {
    Buffer activations(ei_activation_bytes(c.format.id, c.n_cols, n_columns));
    ei_quantize(isa, c.format.id, x, static_cast<size_t>(c.n_cols), c.n_cols, n_columns, activations.data(), 0,
                ei_n_quantize_items(c.format.id, c.n_cols, n_columns));
    return activations;
}

// The product by the C interface: as the instruction set's kernels give it.
inline std::vector<float> product(int32_t isa, Case &c) {
    Buffer activations = quantized(isa, c, c.x.data(), c.n_columns);
    std::vector<float> out = empty_result(c);
    ei_matmul(isa, c.format.id, c.packed.data(), c.n_rows, c.n_cols, activations.data(), c.n_columns, out.data(),
              static_cast<size_t>(c.n_rows), 0, ei_n_panels(c.n_rows));
    check_end(out);
    return out;
}

// The product by one kernel, over x as the scalar reference quantizes it.
inline std::vector<float> product(const ei::Kernel &kernel, Case &c) {
    Buffer activations = quantized(EI_ISA_SCALAR, c, c.x.data(), c.n_columns);
    std::vector<float> out = empty_result(c);
    for (int64_t first = 0; first < c.n_columns; first += ei::kGroupColumns) {
        const int n = static_cast<int>(std::min<int64_t>(ei::kGroupColumns, c.n_columns - first));
        for (int64_t panel = 0; panel < ei_n_panels(c.n_rows); ++panel) {
            const int64_t row = panel * ei::kPanelRows;
            float *at[ei::kGroupColumns];
            for (int i = 0; i < n; ++i) at[i] = out.data() + (first + i) * c.n_rows + row;
            const uint8_t *const group = activations.data() +
                                         static_cast<size_t>(first / ei::kGroupColumns) * ei::activation_group_bytes(c.format, c.n_cols);
            kernel.matmul({c.packed.data() + static_cast<size_t>(panel) * ei::panel_bytes(c.format, c.n_cols), group,
                           c.n_cols / c.format.block_size, at, n, static_cast<int>(std::min<int64_t>(ei::kPanelRows, c.n_rows - row))});
        }
    }
    check_end(out);
    return out;
}

inline bool same(float a, float b) { return (a != a && b != b) || ei::float_bits(a) == ei::float_bits(b); }

inline void check_same(const char *isa, const Case &c, Values values, const std::vector<float> &got, const std::vector<float> &want) {
    for (size_t i = 0; i < want.size(); ++i) {
        CHECK(same(got[i], want[i]), "%s %s %s rows %d cols %d columns %d, output %d: %a, scalar %a", c.format.name, isa, name(values),
              static_cast<int>(c.n_rows), static_cast<int>(c.n_cols), static_cast<int>(c.n_columns), static_cast<int>(i),
              static_cast<double>(got[i]), static_cast<double>(want[i]));
    }
}

}  // namespace cases

#endif
