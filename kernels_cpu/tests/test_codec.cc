// What Python's tests of the codecs (tests/kernels/test_codec.py) cannot see: behaviour under the sanitizers for every bit pattern, and
// that blocks need no alignment.
#include <cmath>
#include <initializer_list>

#include "check.h"
#include "codec/codec.h"
#include "random.h"

namespace {

struct Case {
    int32_t format, block_size;
    size_t block_bytes;
    float worst;    // error over the greatest magnitude of a block
    uint64_t hash;  // of what test_same_bits makes
};

constexpr Case kCases[] = {
    {EI_FORMAT_F16, 1, 2, 0.0005f, 0x4216623ce77945a0},
    {EI_FORMAT_BF16, 1, 2, 0.004f, 0xc8535420c7aa4f21},
    {EI_FORMAT_Q4_0, 32, 18, 0.13f, 0xc2289bddb8cee4a4},
    {EI_FORMAT_Q4_1, 32, 20, 0.07f, 0x04a0ea765e8c1bab},
    {EI_FORMAT_Q5_0, 32, 22, 0.065f, 0xf8ce7d09e437957c},
    {EI_FORMAT_Q5_1, 32, 24, 0.035f, 0xa1caff57a54e7c27},
    {EI_FORMAT_Q8_0, 32, 34, 0.005f, 0x6fda91b74ace919a},
    {EI_FORMAT_Q4_K, 256, 144, 0.1f, 0x6c4d24b85bb2e4ac},
    {EI_FORMAT_Q5_K, 256, 176, 0.055f, 0xe092017d4be5ca70},
    {EI_FORMAT_Q6_K, 256, 210, 0.035f, 0x04c595c3e7df08ed},
    {EI_FORMAT_IQ4_NL, 32, 18, 0.2f, 0xdeb3c3186b99c9b9},
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

uint64_t add_to_hash(uint64_t hash, const void *data, size_t n) {  // FNV-1a
    const uint8_t *const bytes = static_cast<const uint8_t *>(data);
    for (size_t i = 0; i < n; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

// The same blocks and values from every compiler and processor. A new search for scales brings new numbers; nothing else may.
void test_same_bits(const Case &c) {
    constexpr int kColumns = 512, kRows = 64;
    Random random(9);
    std::vector<float> x(kColumns * kRows), importance(kColumns);
    for (float &value : x) {
        value = random.below(50) ? 0.1f : 3.0f;
        value *= random.unit();
        value *= random.unit();
    }
    for (float &value : importance) value = random.below(20) ? std::fabs(random.unit()) : 0.0f;
    std::vector<uint8_t> blocks(x.size() / static_cast<size_t>(c.block_size) * c.block_bytes);
    uint64_t hash = 0xcbf29ce484222325u;
    for (const float *weights : {static_cast<const float *>(nullptr), static_cast<const float *>(importance.data())}) {
        CHECK(ei_encode(c.format, x.data(), kRows, kColumns, weights, blocks.data()) == kRows, "format %d", c.format);
        hash = add_to_hash(hash, blocks.data(), blocks.size());
    }
    CHECK(ei_decode(c.format, blocks.data(), kRows, kColumns, x.data()) == EI_OK, "format %d", c.format);
    hash = add_to_hash(hash, x.data(), x.size() * sizeof(float));
    CHECK(hash == c.hash, "format %d: 0x%016llx", c.format, static_cast<unsigned long long>(hash));
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
            const uint32_t kept = round % 4 == 1 ? 0x9fffffff : 0xffffffff;  // small enough to go in, or anything at all
            for (float &value : x) value = ei::bits_float(static_cast<uint32_t>(random.next() >> 32) & kept);
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
        const int64_t done = ei_encode(c.format, x.data(), 2, 256, nullptr, blocks.data());
        CHECK(done == (special ? 2 : 1), "format %d takes %g", c.format, double(bad));
    }
    if (c.block_size > 1) {
        CHECK(ei_encode(c.format, x.data(), 1, c.block_size + 1, nullptr, blocks.data()) == EI_UNKNOWN, "format %d", c.format);
        CHECK(ei_decode(c.format, blocks.data(), 1, c.block_size + 1, x.data()) == EI_UNKNOWN, "format %d", c.format);
    }
}

}  // namespace

int main() {
    for (const Case &c : kCases) test_round_trip(c), test_same_bits(c), test_all_bits(c), test_refusals(c);
    float x = 0.0f;
    CHECK(ei_encode(99, &x, 1, 1, nullptr, &x) == EI_UNKNOWN && ei_decode(99, &x, 1, 1, &x) == EI_UNKNOWN, "no format 99");
    return check::result();
}
