// Every kernel of this machine against the scalar reference, bit for bit: formats x shapes x kinds of values.
#include <cmath>

#include "check.h"
#include "core/half.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "random.h"

namespace {

enum class Values { normal, zero_scales, wild };

const char *name(Values values) { return values == Values::normal ? "normal" : values == Values::zero_scales ? "zero scales" : "wild"; }

// Rows of blocks: random quants, and scales that are ordinary, zero, or any bits at all (subnormal, infinite, NaN).
void fill_rows(Random &random, const ei::Format &format, Values values, uint8_t *rows, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; ++i) rows[i] = static_cast<uint8_t>(random.next() >> 40);
    if (values == Values::wild) return;
    for (size_t at = 0; at < n_bytes; at += format.block_bytes) {
        const uint16_t d = values == Values::normal ? ei::float_to_half(random.unit() * 0.1f) : 0, m = ei::float_to_half(random.unit() * 0.1f);
        const bool last = format.id == EI_FORMAT_Q6_K;
        std::memcpy(rows + at + (last ? format.block_bytes - 2 : 0), &d, 2);
        const bool two = format.activation == ei::Activation::min32 || format.activation == ei::Activation::min256;
        if (two) std::memcpy(rows + at + 2, &m, 2);
    }
}

void fill_columns(Random &random, Values values, float *x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = random.unit() * (random.below(50) ? 1.0f : 40.0f);
    if (values == Values::zero_scales) {
        for (int64_t i = 0; i < n; ++i) x[i] = i / 256 % 2 ? 0.0f : i % 7 ? 1e-32f : -0.0f;
    } else if (values == Values::wild) {
        for (int64_t i = 0; i < n; ++i) {
            const uint32_t bits = static_cast<uint32_t>(random.next() >> 20);
            if (random.below(8) == 0) std::memcpy(x + i, &bits, 4);
        }
        if (n > 300) x[random.below(300)] = HUGE_VALF;
    }
}

bool same(float a, float b) { return (a != a && b != b) || ei::float_bits(a) == ei::float_bits(b); }

std::vector<float> product(int32_t isa, int32_t format, const void *packed, int64_t n_rows, int64_t n_cols, const float *x, int64_t n_columns) {
    Buffer activations(ei_activation_bytes(format, n_cols, n_columns));
    std::vector<float> out(static_cast<size_t>(n_rows * n_columns) + 16, -7.0f);
    ei_quantize(isa, format, x, static_cast<size_t>(n_cols), n_cols, n_columns, activations.data(), 0,
                ei_n_quantize_items(format, n_cols, n_columns));
    ei_matmul(isa, format, packed, n_rows, n_cols, activations.data(), n_columns, out.data(), static_cast<size_t>(n_rows), 0,
              ei_n_panels(n_rows));
    for (size_t i = out.size() - 16; i < out.size(); ++i) CHECK(out[i] == -7.0f, "wrote past the end");
    return out;
}

void compare(Random &random, const ei::Format &format, Values values, int64_t n_rows, int64_t n_cols, int64_t n_columns) {
    const size_t row_bytes = static_cast<size_t>(n_cols / format.block_size) * format.block_bytes;
    std::vector<uint8_t> rows(row_bytes * static_cast<size_t>(n_rows));
    fill_rows(random, format, values, rows.data(), rows.size());
    std::vector<float> x(static_cast<size_t>(n_cols * n_columns));
    fill_columns(random, values, x.data(), static_cast<int64_t>(x.size()));
    Buffer packed(ei_packed_bytes(format.id, n_rows, n_cols));
    ei_pack(format.id, rows.data(), row_bytes, n_rows, n_cols, packed.data(), 0, ei_n_panels(n_rows));

    const std::vector<float> want = product(EI_ISA_SCALAR, format.id, packed.data(), n_rows, n_cols, x.data(), n_columns);
    for (int32_t isa = 1; isa < EI_ISA_COUNT; ++isa) {
        if (!(ei_capabilities() & ei::isa_bit(isa))) continue;
        const std::vector<float> got = product(isa, format.id, packed.data(), n_rows, n_cols, x.data(), n_columns);
        for (size_t i = 0; i < want.size(); ++i) {
            CHECK(same(got[i], want[i]), "%s %s %s rows %d cols %d columns %d, output %d: %a, scalar %a", format.name, ei_isa_name(isa),
                  name(values), static_cast<int>(n_rows), static_cast<int>(n_cols), static_cast<int>(n_columns), static_cast<int>(i), got[i],
                  want[i]);
        }
        // Alone, a column gives what it gives among others.
        const int64_t c = random.below(static_cast<int>(n_columns));
        const std::vector<float> alone = product(isa, format.id, packed.data(), n_rows, n_cols, x.data() + c * n_cols, 1);
        for (int64_t r = 0; r < n_rows; ++r) {
            CHECK(same(alone[static_cast<size_t>(r)], got[static_cast<size_t>(c * n_rows + r)]), "%s %s: column %d of %d differs alone",
                  format.name, ei_isa_name(isa), static_cast<int>(c), static_cast<int>(n_columns));
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
            for (const Values values : {Values::normal, Values::zero_scales, Values::wild}) {
                for (int64_t n_columns = 1; n_columns <= 8; ++n_columns) {
                    compare(random, *format, values, 1 + random.below(40), format->block_size * (1 + random.below(4)), n_columns);
                }
                compare(random, *format, values, 33, format->block_size * 3, 17);
            }
        }
    }
    return check::result();
}
