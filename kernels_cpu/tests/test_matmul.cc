// Every kernel of this machine against the scalar reference, bit for bit: formats x shapes x kinds of values. The scalar kernels of F32,
// F16 and BF16 against sums in double precision.
#include "matmul_cases.h"

namespace {

using cases::Case;
using cases::Values;

void compare(Random &random, Case &c, Values values) {
    const std::vector<float> want = cases::product(EI_ISA_SCALAR, c);
    const int64_t column = random.below(static_cast<int>(c.n_columns));
    Case one = c;
    one.n_columns = 1, one.x.assign(c.x.begin() + column * c.n_cols, c.x.begin() + (column + 1) * c.n_cols);
    one.pack();  // to its own aligned place
    for (int32_t isa = 1; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) continue;
        const std::vector<float> got = cases::product(isa, c);
        cases::check_same(ei_isa_name(isa), c, values, got, want);
        // Alone, a column gives what it gives among others.
        const std::vector<float> alone = cases::product(isa, one);
        for (int64_t r = 0; r < c.n_rows; ++r) {
            CHECK(cases::same(alone[static_cast<size_t>(r)], got[static_cast<size_t>(column * c.n_rows + r)]),
                  "%s %s: column %d of %d differs alone", c.format.name, ei_isa_name(isa), static_cast<int>(column),
                  static_cast<int>(c.n_columns));
        }
    }
}

// What the bits of a weight mean, by the definition of the formats.
double weight_value(int32_t format, const uint8_t *at) {
    uint32_t bits = 0;
    std::memcpy(&bits, at, format == EI_FORMAT_F32 ? 4 : 2);
    if (format == EI_FORMAT_BF16) bits <<= 16;
    const int fraction_bits = format == EI_FORMAT_F16 ? 10 : 23, exponent_bits = format == EI_FORMAT_F16 ? 5 : 8;
    const uint32_t fraction = bits & ((1u << fraction_bits) - 1), exponent = bits >> fraction_bits & ((1u << exponent_bits) - 1);
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const double sign = bits >> (fraction_bits + exponent_bits) & 1 ? -1.0 : 1.0;
    if (exponent == (1u << exponent_bits) - 1) return fraction ? NAN : sign * HUGE_VAL;
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
    return sign * std::ldexp(fraction | 1u << fraction_bits, static_cast<int>(exponent) - bias - fraction_bits);
}

// Each of at most 16 + n / 16 + 1 roundings that an element passes through is at most 2^-24 of the sum of magnitudes.
void compare_with_double(Random &random, const ei::Format &format, int64_t n_cols) {
    Case c(random, format, Values::normal, 19, n_cols, 3);
    const std::vector<float> got = cases::product(EI_ISA_SCALAR, c);
    for (int64_t column = 0; column < c.n_columns; ++column) {
        for (int64_t row = 0; row < c.n_rows; ++row) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < n_cols; ++k) {
                const size_t at = static_cast<size_t>(row) * c.row_bytes() + static_cast<size_t>(k) * format.block_bytes;
                const double x = static_cast<double>(c.x[static_cast<size_t>(column * n_cols + k)]);
                const double term = weight_value(format.id, c.rows.data() + at) * x;
                sum += term, magnitude += std::fabs(term);
            }
            const double y = static_cast<double>(got[static_cast<size_t>(column * c.n_rows + row)]);
            CHECK(std::fabs(y - sum) <= static_cast<double>(17 + n_cols / 16) * 0x1p-24 * magnitude, "%s cols %d row %d: %a, in double %a",
                  format.name, static_cast<int>(n_cols), static_cast<int>(row), y, sum);
        }
    }
}

// Every weight of 16 bits (or a sample of 32), alone in its row, times 1.
void check_values(Random &random, const ei::Format &format) {
    Case c(random, format, Values::wild, 1 << 16, 1, 1);
    for (uint32_t i = 0; i < 1 << 16; ++i) {
        const uint32_t bits = format.id == EI_FORMAT_F32 ? i << 16 | (i & 3) : i;
        std::memcpy(c.rows.data() + i * format.block_bytes, &bits, format.block_bytes);
    }
    c.x[0] = 1.0f;
    c.pack();
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) continue;
        const std::vector<float> got = cases::product(isa, c);
        for (size_t i = 0; i < 1 << 16; ++i) {
            const double want = weight_value(format.id, c.rows.data() + i * format.block_bytes), y = static_cast<double>(got[i]);
            CHECK(y == want || (y != y && want != want), "%s %s: weight %x is %a, not %a", format.name, ei_isa_name(isa),
                  static_cast<unsigned>(i), y, want);
        }
    }
}

}  // namespace

int main(int argc, char **argv) {
    const int n_rounds = argc > 1 ? std::atoi(argv[1]) : 1;
    Random random(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int32_t id = 0; id < 64; ++id) {
        const ei::Format *format = ei::find_format(id);
        if (format == nullptr) continue;
        for (int round = 0; round < n_rounds; ++round) {
            cases::for_each_case(random, *format, [&](Case c, Values values) { compare(random, c, values); });
        }
        if (!cases::is_float(*format)) continue;
        for (const int64_t n_cols : {1, 15, 16, 17, 300, 4096}) compare_with_double(random, *format, n_cols);
        check_values(random, *format);
    }
    return check::result();
}
