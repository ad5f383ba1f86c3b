// Every gate kernel of this machine: the scalar kernel's bits at every place of a vector, for every kind of number.
#include <cmath>
#include <cstring>
#include <vector>

#include "core/half.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "tests/check.h"
#include "tests/random.h"

namespace {

bool same(float a, float b) { return ei::float_bits(a) == ei::float_bits(b) || (a != a && b != b); }

std::vector<float> numbers(Random &random, size_t n) {
    const float special[] = {0.0f,  -0.0f,  1e-40f,    -1e-40f,    80.0f, -80.0f, -80.001f,
                             3e38f, -3e38f, HUGE_VALF, -HUGE_VALF, NAN,   1e13f,  -1e13f};
    std::vector<float> x(n);
    for (float &value : x) {
        value = random.below(4) ? random.unit() * 20.0f : ei::bits_float(static_cast<uint32_t>(random.next()));
        if (random.below(20) == 0) value = special[random.below(static_cast<int>(sizeof special / sizeof *special))];
    }
    return x;
}

void test_isa(int32_t activation, int32_t isa) {
    const ei::Kernel *kernel = ei::find_kernel(ei::Op::gate, activation, isa);
    if (kernel == nullptr || !(ei_capabilities() & ei::isa_bit(isa))) return;
    const ei::Kernel *scalar = ei::find_kernel(ei::Op::gate, activation, EI_ISA_SCALAR);
    Random random(static_cast<uint64_t>(isa) + 1);
    for (int round = 0; round < 400; ++round) {
        const size_t n = static_cast<size_t>(random.below(70));
        const std::vector<float> x = numbers(random, n + 1), up = numbers(random, n + 1);
        std::vector<float> want(n + 1, -7.0f), got(n + 1, -7.0f);
        scalar->gate(x.data(), up.data(), want.data(), static_cast<int64_t>(n));
        kernel->gate(x.data(), up.data(), got.data(), static_cast<int64_t>(n));
        for (size_t i = 0; i < n; ++i) {
            CHECK(same(want[i], got[i]), "%s, %g gated with %g: %g, not %g", ei_isa_name(isa), x[i], up[i], got[i], want[i]);
        }
        CHECK(got[n] == -7.0f && want[n] == -7.0f, "%s writes past %zu", ei_isa_name(isa), n);
    }
}

void test_values() {
    const float x[] = {-6.0f, -1.0f, -0.25f, 0.0f, 0.5f, 2.0f, 9.0f};
    for (float value : x) {
        const double wide = value, z = 2 * std::sqrt(2 / 3.14159265358979324) * (wide + 0.044715 * wide * wide * wide);
        const double right[] = {wide / (1 + std::exp(-wide)), wide / (1 + std::exp(-z))};
        for (int32_t activation : {ei::kSilu, ei::kGelu}) {
            float out = 0.0f;
            const float up = 1.0f;
            ei::find_kernel(ei::Op::gate, activation, EI_ISA_SCALAR)->gate(&value, &up, &out, 1);
            const double error = std::fabs(out - right[activation]);
            CHECK(error <= 3e-6 * std::fabs(right[activation]), "activation %d of %g is %g", activation, wide, static_cast<double>(out));
        }
    }
}

}  // namespace

int main() {
    test_values();
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        for (int32_t activation : {ei::kSilu, ei::kGelu}) test_isa(activation, isa);
    }
    return check::result();
}
