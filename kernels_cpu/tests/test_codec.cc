// What Python's tests of the codecs (tests/kernels/test_codec.py) cannot see: behaviour under the sanitizers for every bit pattern, and that
// blocks need no alignment.
#include <cmath>
#include <initializer_list>

#include "check.h"
#include "codec/codec.h"
#include "random.h"

namespace {

struct Case {
    int32_t format, block_size;
    size_t block_bytes;
    float worst;  // error over the greatest magnitude of a block
};

constexpr Case kCases[] = {
    {EI_FORMAT_F16, 1, 2, 0.0005f},     {EI_FORMAT_BF16, 1, 2, 0.004f},     {EI_FORMAT_Q4_0, 32, 18, 0.13f},   {EI_FORMAT_Q4_1, 32, 20, 0.07f},
    {EI_FORMAT_Q5_0, 32, 22, 0.065f},   {EI_FORMAT_Q5_1, 32, 24, 0.035f},   {EI_FORMAT_Q8_0, 32, 34, 0.005f},  {EI_FORMAT_Q4_K, 256, 144, 0.1f},
    {EI_FORMAT_Q5_K, 256, 176, 0.055f}, {EI_FORMAT_Q6_K, 256, 210, 0.035f}, {EI_FORMAT_IQ4_NL, 32, 18, 0.2f},
};

void test_round_trip(const Case &c) {
    constexpr int kColumns = 512, kRows = 3;
    Random random(3);
    std::vector<float> x(kColumns * kRows), importance(kColumns), y(x.size());
    for (float scale : {1.0f, 0.01f, 300.0f}) {
        for (float &value : x) value = random.unit() * scale;
        for (float &value : importance) value = std::fabs(random.unit());
        const size_t bytes = static_cast<size_t>(kColumns / c.block_size) * c.block_bytes * kRows;
        for (const float *weights : {static_cast<const float *>(nullptr), static_cast<const float *>(importance.data())}) {
            std::vector<uint8_t> blocks(bytes + 1);
            CHECK(ei_encode(c.format, x.data(), kRows, kColumns, weights, blocks.data() + 1) == kRows, "format %d", c.format);
            CHECK(ei_decode(c.format, blocks.data() + 1, kRows, kColumns, y.data()) == EI_OK, "format %d", c.format);
            for (size_t i = 0; weights == nullptr && i < x.size(); ++i) {
                CHECK(std::fabs(x[i] - y[i]) <= c.worst * scale, "format %d at %zu: %g for %g", c.format, i, double(y[i]), double(x[i]));
            }
        }
    }
}

// Any bytes are blocks; what comes out of them, whatever it is, goes in again or is refused.
void test_all_bits(const Case &c) {
    constexpr int kColumns = 512;
    Random random(5);
    std::vector<uint8_t> blocks(static_cast<size_t>(kColumns / c.block_size) * c.block_bytes);
    std::vector<float> x(kColumns), importance(kColumns);
    for (int round = 0; round < 200; ++round) {
        for (uint8_t &byte : blocks) byte = static_cast<uint8_t>(random.next() >> 40);
        CHECK(ei_decode(c.format, blocks.data(), 1, kColumns, x.data()) == EI_OK, "format %d", c.format);
        if (round % 2) {
            for (float &value : x) value = ei::bits_float(static_cast<uint32_t>(random.next() >> 32) & ~(round % 4 == 1 ? 0x60000000u : 0u));
        }
        for (float &value : importance) value = random.below(3) ? std::fabs(random.unit()) : 0.0f;
        const int64_t done = ei_encode(c.format, x.data(), 1, kColumns, round % 3 ? importance.data() : nullptr, blocks.data());
        CHECK(done == 0 || done == 1, "format %d: %d rows", c.format, static_cast<int>(done));
    }
}

void test_refusals(const Case &c) {
    const bool special = c.format == EI_FORMAT_F16 || c.format == EI_FORMAT_BF16;
    std::vector<float> x(512, 0.5f);
    std::vector<uint8_t> blocks(2 * 512 * 2);
    for (float bad : {HUGE_VALF, -HUGE_VALF, ei::bits_float(0x7fc00000), 3e38f, 1e9f}) {
        x[300] = bad;
        CHECK(ei_encode(c.format, x.data(), 2, 256, nullptr, blocks.data()) == (special ? 2 : 1), "format %d takes %g", c.format, double(bad));
    }
    if (c.block_size > 1) {
        CHECK(ei_encode(c.format, x.data(), 1, c.block_size + 1, nullptr, blocks.data()) == EI_UNKNOWN, "format %d", c.format);
        CHECK(ei_decode(c.format, blocks.data(), 1, c.block_size + 1, x.data()) == EI_UNKNOWN, "format %d", c.format);
    }
}

}  // namespace

int main() {
    for (const Case &c : kCases) test_round_trip(c), test_all_bits(c), test_refusals(c);
    float x = 0.0f;
    CHECK(ei_encode(99, &x, 1, 1, nullptr, &x) == EI_UNKNOWN && ei_decode(99, &x, 1, 1, &x) == EI_UNKNOWN, "no format 99");
    return check::result();
}
