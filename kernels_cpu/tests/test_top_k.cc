// Every instruction set finds what sorting finds, whatever the order of the logits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "edgeinfer_kernels.h"
#include "random.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int32_t> sorted_best(const std::vector<float> &logits, int64_t k) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < logits.size(); ++i) {
        if (logits[i] > -kInfinity) ids.push_back(static_cast<int32_t>(i));
    }
    const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
    if (static_cast<int64_t>(ids.size()) > k) ids.resize(static_cast<size_t>(k));
    return ids;
}

struct Found {
    int64_t n;
    std::vector<int32_t> ids;
    std::vector<float> probabilities;
};

Found find(int32_t isa, const std::vector<float> &logits, int64_t k, float temperature) {
    const int64_t n = static_cast<int64_t>(logits.size());
    Buffer scratch(ei_top_k_scratch_bytes(n, k));
    Found out{0, std::vector<int32_t>(static_cast<size_t>(k)), std::vector<float>(static_cast<size_t>(k))};
    out.n = ei_top_k(isa, logits.data(), n, k, temperature, out.ids.data(), out.probabilities.data(), scratch.data());
    return out;
}

std::vector<float> make_logits(Random &random, int kind, int n) {
    std::vector<float> logits(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
        float &x = logits[static_cast<size_t>(i)];
        switch (kind) {
            case 0: x = 20.0f * random.unit(); break;
            case 1: x = static_cast<float>(i); break;                                  // each better than all before
            case 2: x = static_cast<float>(random.below(3)); break;                    // almost all equal
            case 3: x = random.below(2) ? 0.0f : -0.0f; break;                         // equal, though not in bits
            case 4: x = random.below(4) ? -kInfinity : random.unit(); break;
            default: x = -kInfinity; break;
        }
    }
    return logits;
}

void test_isa(int32_t isa) {
    Random random(7);
    for (int kind = 0; kind < 6; ++kind) {
        for (int n : {1, 2, 31, 32, 33, 64, 257, 1000, 20011}) {
            const std::vector<float> logits = make_logits(random, kind, n);
            for (int k : {1, 2, 40, 300, n}) {
                if (k > n) continue;
                const Found found = find(isa, logits, k, 0.7f);
                const std::vector<int32_t> want = sorted_best(logits, k);
                const bool as_many = found.n == static_cast<int64_t>(want.size());
                CHECK(as_many && std::equal(want.begin(), want.end(), found.ids.begin()), "isa %d kind %d n %d k %d", isa, kind, n, k);
                const Found plain = find(EI_ISA_SCALAR, logits, k, 0.7f);
                CHECK(plain.probabilities == found.probabilities, "isa %d kind %d n %d k %d", isa, kind, n, k);
                double sum = 0.0;
                for (int64_t i = 0; i < found.n; ++i) sum += static_cast<double>(found.probabilities[static_cast<size_t>(i)]);
                CHECK(found.n == 0 || std::fabs(sum - 1.0) < 1e-4, "isa %d kind %d n %d k %d: sum %g", isa, kind, n, k, sum);
            }
            for (float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
                std::vector<float> wrong = logits;
                wrong[static_cast<size_t>(random.below(n))] = bad;
                CHECK(find(isa, wrong, 1, 1.0f).n == EI_NOT_FINITE, "isa %d kind %d n %d", isa, kind, n);
            }
        }
    }
}

void test_probabilities_are_the_softmax() {
    const std::vector<float> logits = {1.0f, 3.0f, -kInfinity, 2.0f};
    const Found found = find(EI_ISA_SCALAR, logits, 4, 0.5f);
    const double total = 1.0 + std::exp(-2.0) + std::exp(-4.0), want[] = {1.0 / total, std::exp(-2.0) / total, std::exp(-4.0) / total};
    CHECK(found.n == 3, "%d", static_cast<int>(found.n));
    for (size_t i = 0; i < 3; ++i) CHECK(std::fabs(static_cast<double>(found.probabilities[i]) - want[i]) < 1e-7, "%zu", i);
}

}  // namespace

int main() {
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (ei_capabilities() >> isa & 1) test_isa(isa);
    }
    test_probabilities_are_the_softmax();
    return check::result();
}
