// What the operators for ONNX Runtime are made of, without ONNX Runtime: sharing out work, the splits of products and attention, norms,
// rope, and what registration makes of runtimes that are not what it was written for.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "attention/split.h"
#include "matmul/product.h"
#include "onnxruntime/norm.h"
#include "onnxruntime/rope.h"
#include "onnxruntime/session.h"
#include "tests/check.h"
#include "tests/random.h"

extern "C" OrtStatus *EI_ORT_CALL RegisterCustomOps(OrtSessionOptions *, const OrtApiBase *);

namespace {

using ei::wide;

// ---- Sharing out: each item once, to no more workers than asked for.

OrtStatus *EI_ORT_CALL on_threads(const OrtKernelContext *, void (*work)(void *, size_t), size_t n, size_t, void *data) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < n; ++i) threads.emplace_back(work, data, i);
    for (std::thread &thread : threads) thread.join();
    return nullptr;
}

// A pool may run everything on one thread, in any order.
OrtStatus *EI_ORT_CALL backwards(const OrtKernelContext *, void (*work)(void *, size_t), size_t n, size_t, void *data) {
    while (n-- > 0) work(data, n);
    return nullptr;
}

void test_sharing() {
    for (auto pool : {on_threads, backwards}) {
        ei::g_ort.KernelContext_ParallelFor = pool;
        for (int n_threads : {1, 2, 5}) {
            for (int64_t n_items : {0, 1, 2, 3, 100}) {
                std::vector<std::atomic<int>> done(static_cast<size_t>(n_items) + 1);
                std::atomic<int> most{-1};
                OrtStatus *status = ei::share_out(nullptr, n_threads, n_items, [&](int worker, int64_t item) {
                    done[static_cast<size_t>(item)].fetch_add(1);
                    for (int seen = most; worker > seen && !most.compare_exchange_weak(seen, worker);) {
                    }
                });
                CHECK(status == nullptr && most < n_threads, "%d threads, %lld items", n_threads, wide(n_items));
                for (int64_t i = 0; i < n_items; ++i) CHECK(done[static_cast<size_t>(i)] == 1, "item %lld", wide(i));
            }
        }
    }
}

void test_workspace() {
    char *const first = ei::workspace(1000);
    CHECK(first != nullptr && reinterpret_cast<size_t>(first) % 64 == 0, "alignment");
    std::memset(first, 1, 1000);
    CHECK(ei::workspace(500) == first, "what is there is enough");
    char *const more = ei::workspace(1 << 20);
    std::memset(more, 1, 1 << 20);
}

// ---- Splits: every row of attention, and every panel of a product, once.

void test_attention_split() {
    Random random(1);
    for (int round = 0; round < 300; ++round) {
        const int64_t kv_heads = 1 + random.below(8), tokens = 1 + random.below(round % 3 ? 12 : 600);
        const ei::AttentionShape shape{64, 1 + random.below(9000), tokens, kv_heads, 1 + random.below(2), 1 + random.below(9)};
        const int n_threads = 1 + random.below(16);
        for (const ei::Split &split : {shape.best_split(n_threads), shape.best_split_apart(n_threads), shape.finest_split()}) {
            std::vector<int> rows(static_cast<size_t>(shape.n_streams * kv_heads * tokens * shape.n_group));
            for (int64_t i = 0; i < split.n_units; ++i) {
                int64_t stream = -1;
                const ei_attention_unit u = shape.unit(split, i, &stream);
                CHECK(u.n_tokens >= 1 && u.n_tokens <= 64 && u.n_heads >= 1, "unit %lld", wide(i));
                for (int t = 0; t < u.n_tokens; ++t) {
                    for (int h = 0; h < u.n_heads; ++h) {
                        const int64_t head = u.kv_head * shape.n_group + u.first_head + h;
                        ++rows[static_cast<size_t>((stream * kv_heads * shape.n_group + head) * tokens + u.first_token + t)];
                    }
                }
            }
            for (int n : rows) CHECK(n == 1, "a row is computed %d times", n);
            CHECK(shape.work_bytes(split, n_threads) >= shape.scratch_bytes(split), "work memory");
        }
    }
}

// Tokens of several sequences are not computed over each other's cells, and how their masks lie is seen whatever the padding holds.
void test_split_of_sequences() {
    constexpr int kTokens = 8, kCells = 160;  // a token
    constexpr int64_t kAll = kTokens * kCells;
    std::vector<uint16_t> own(kTokens * kAll, 0xfc00), same(kTokens * kAll, 0xfc00);
    for (int t = 0; t < kTokens; ++t) {
        for (int i = 0; i < kCells; ++i) own[static_cast<size_t>(t * kAll + t * kCells + i)] = 0;
        for (int i = 0; i < kAll - kTokens + t; ++i) same[static_cast<size_t>(t * kAll + i)] = 0;
    }
    const ei::AttentionShape shape{64, kAll, kTokens, 3, 1, 3};
    const auto split_for = [&](const std::vector<uint16_t> &masks) {
        return shape.best_split_for(reinterpret_cast<const char *>(masks.data()), kAll * sizeof(uint16_t), 2);
    };
    CHECK(split_for(same).parts == 2, "one sequence: %d parts", split_for(same).parts);
    CHECK(split_for(own).parts == 1 && split_for(own).n_units % 2 == 0, "eight sequences: %d parts", split_for(own).parts);
}

void test_product_chunks() {
    for (int64_t n_rows : {1, 16, 17, 300, 9000}) {
        for (int64_t m : {1, 8, 16, 17, 512}) {
            for (int n_threads : {1, 2, 8}) {
                const ei::Product p(EI_FORMAT_Q8_0, 2048, n_rows, m);
                const int64_t chunk = p.chunk_panels(n_threads);
                CHECK(chunk >= 1 && chunk <= p.n_panels, "%lld rows, %lld columns", wide(n_rows), wide(m));
                CHECK(p.group_size(p.n_groups - 1) == m - 8 * (p.n_groups - 1), "the last group of %lld columns", wide(m));
            }
        }
    }
}

// ---- Norms and rope.

void test_norm() {
    Random random(2);
    for (int64_t n : {1, 15, 16, 33, 1000}) {
        std::vector<float> x(static_cast<size_t>(n)), skip(x), weight(x), sum(x), y(x), again(x);
        for (size_t i = 0; i < x.size(); ++i) x[i] = random.unit(), skip[i] = random.unit(), weight[i] = random.unit();
        ei::normalize_row(x.data(), skip.data(), weight.data(), 1e-5f, n, sum.data(), y.data());
        ei::normalize_row(sum.data(), nullptr, weight.data(), 1e-5f, n, nullptr, again.data());
        double square = 0;
        for (size_t i = 0; i < x.size(); ++i) square += static_cast<double>(sum[i]) * static_cast<double>(sum[i]);
        const double scale = 1 / std::sqrt(square / static_cast<double>(n) + 1e-5);
        for (size_t i = 0; i < x.size(); ++i) {
            CHECK(sum[i] == x[i] + skip[i] && y[i] == again[i], "element %zu of %lld", i, wide(n));
            const double right = static_cast<double>(sum[i]) * scale * static_cast<double>(weight[i]);
            CHECK(std::fabs(y[i] - right) <= 1e-6 * std::fabs(right) + 1e-12, "element %zu of %lld", i, wide(n));
        }
    }
}

void test_rope() {
    const float x[12] = {1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6}, cos[2] = {0, 1}, sin[2] = {1, 0};
    const float turned[12] = {-3, 2, 1, 4, 5, 6, 3, -2, -1, -4, -5, -6};
    float out[12];
    ei::rotate(x, 2, 6, cos, sin, 2, out);
    CHECK(std::memcmp(out, turned, sizeof out) == 0, "two pairs of each head turned");
    ei::rotate(x, 2, 6, nullptr, nullptr, 0, out);
    CHECK(std::memcmp(out, x, sizeof out) == 0, "nothing turned");
}

// ---- Registration with runtimes that are not ours.

struct Status {
    int code;
    char message[200];
} g_status;

OrtStatus *EI_ORT_CALL create_status(int code, const char *message) {
    g_status.code = code;
    std::snprintf(g_status.message, sizeof g_status.message, "%s", message);
    return reinterpret_cast<OrtStatus *>(&g_status);
}
int EI_ORT_CALL wrong_code(const OrtStatus *) { return 77; }
const char *EI_ORT_CALL get_message(const OrtStatus *) { return g_status.message; }
void EI_ORT_CALL release_status(OrtStatus *) {}

const void *g_table[300];
uint32_t g_newest = 17;
const char *g_version = "1.20.0";

const OrtApi *EI_ORT_CALL get_api(uint32_t version) { return version <= g_newest ? reinterpret_cast<const OrtApi *>(g_table) : nullptr; }
const char *EI_ORT_CALL get_version() { return g_version; }

void test_registration() {
    const OrtApiBase base{get_api, get_version};
    g_table[0] = reinterpret_cast<const void *>(create_status), g_table[1] = reinterpret_cast<const void *>(wrong_code);
    g_table[2] = reinterpret_cast<const void *>(get_message), g_table[93] = reinterpret_cast<const void *>(release_status);
    const auto refused = [&](const char *why) {
        return RegisterCustomOps(nullptr, &base) != nullptr && g_status.code == ort::kFail && std::strstr(g_status.message, why) != nullptr;
    };
    for (const char *version : {"1.19.2", "2.0.0", "0.9", "1", "", "x.y"}) {
        g_version = version;
        CHECK(refused("written for ONNX Runtime 1.20 or later"), "version '%s': %s", version, g_status.message);
    }
    g_version = "1.20.0", g_newest = 16;
    CHECK(refused("written for"), "a table that is too old: %s", g_status.message);
    g_newest = 17;
    CHECK(refused("a status is not what it was made of"), "another order of functions: %s", g_status.message);
    CHECK(ei::g_ort.CreateCustomOpDomain == nullptr, "nothing is kept of a runtime that was refused");
}

}  // namespace

int main() {
    test_registration();
    test_sharing();
    test_workspace();
    test_attention_split();
    test_split_of_sequences();
    test_product_chunks();
    test_norm();
    test_rope();
    return check::result();
}
