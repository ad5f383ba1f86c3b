// bench_kernels [THREADS [ISA [FORMAT|attention...]]]: for each format and M, the time of one product of a matrix that is larger than the
// caches, and of quantizing the activations for it; then of attention over keys and values that are. As ms, GB/s (of weights, of floats
// quantized, of keys and values), GOPS (2 per multiply-accumulate) and the ratio to M = 1. Compare with the limits that `edgeinfer doctor`
// prints. The time is processor time per thread (std::clock), tenth percentile, so that a busy machine disturbs it little.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "core/formats.h"
#include "core/half.h"
#include "core/isa.h"
#include "tests/random.h"

namespace {

constexpr int64_t kColumns[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 128}, kMost = 128;

double processor_time() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Seconds per thread of work(first, n) over all of n_items, handed out by `chunk` and repeated so that the clock's tick does not count.
template <class Work>
double run_once(int n_threads, int64_t n_items, int64_t chunk, int n_repeats, const Work &work) {
    std::atomic<int64_t> next{0};
    const int64_t n_chunks = (n_items + chunk - 1) / chunk;
    const auto run = [&](int thread) {
        for (int64_t i; (i = next.fetch_add(1)) < n_chunks * n_repeats;) {
            const int64_t first = i % n_chunks * chunk;
            work(thread, first, std::min(chunk, n_items - first));
        }
    };
    std::vector<std::thread> threads;
    const double begin = processor_time();
    for (int t = 1; t < n_threads; ++t) threads.emplace_back(run, t);
    run(0);
    for (std::thread &thread : threads) thread.join();
    return (processor_time() - begin) / n_threads / n_repeats;
}

template <class Work>
double measure(int n_threads, int64_t n_items, int64_t chunk, const Work &work) {
    const double once = std::max(1e-7, run_once(n_threads, n_items, chunk, 1, work));
    const int n_repeats = static_cast<int>(std::max(1.0, 3e-3 / once));
    std::vector<double> times;
    for (double spent = 0; spent < 0.3 || times.size() < 3; spent += times.back() * n_repeats) {
        times.push_back(run_once(n_threads, n_items, chunk, n_repeats, work));
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 10];
}

void print(const char *op, const char *format, int64_t m, double seconds, double first, double n_bytes, double n_operations) {
    std::printf("%-9s %-7s %4d %9.4f %7.1f", op, format, static_cast<int>(m), seconds * 1e3, n_bytes / seconds * 1e-9);
    if (n_operations > 0) std::printf(" %7.1f", n_operations / seconds * 1e-9);
    else std::printf(" %7s", "-");
    std::printf(" %6.2f\n", seconds / first);
    std::fflush(stdout);
}

void bench_format(int32_t isa, const ei::Format &format, int n_threads) {
    const int64_t n_cols = 1536, n_rows = 65536, n_panels = ei_n_panels(n_rows);
    const size_t row_bytes = static_cast<size_t>(n_cols / format.block_size) * format.block_bytes;
    const size_t packed_bytes = ei_packed_bytes(format.id, n_rows, n_cols);
    const std::vector<uint8_t> rows(row_bytes * n_rows, 0x11);
    Buffer packed(packed_bytes), activations(ei_activation_bytes(format.id, n_cols, kMost));
    ei_pack(format.id, rows.data(), row_bytes, n_rows, n_cols, packed.data(), 0, n_panels);
    std::vector<float> x(n_cols * kMost, 0.5f), out(static_cast<size_t>(n_rows * kMost));
    double first = 0;
    for (const int64_t m : kColumns) {
        // One thread: what a model quantizes at a time is little.
        const double t = measure(1, ei_n_quantize_items(format.id, n_cols, m), 64, [&](int, int64_t item, int64_t n) {
            ei_quantize(isa, format.id, x.data(), static_cast<size_t>(n_cols), n_cols, m, activations.data(), item, n);
        });
        if (m == 1) first = t;
        print("quantize", format.name, m, t, first, static_cast<double>(n_cols * m) * sizeof(float), 0);
    }
    for (const int64_t m : kColumns) {
        const int64_t n_items = ei_n_quantize_items(format.id, n_cols, m);
        ei_quantize(isa, format.id, x.data(), static_cast<size_t>(n_cols), n_cols, m, activations.data(), 0, n_items);
        const double t = measure(n_threads, n_panels, m > 16 ? 8 : 4, [&](int, int64_t panel, int64_t n) {
            ei_matmul(isa, format.id, packed.data(), n_rows, n_cols, activations.data(), m, out.data(), static_cast<size_t>(n_rows), panel,
                      n);
        });
        if (m == 1) first = t;
        print("matmul", format.name, m, t, first, static_cast<double>(packed_bytes), 2.0 * static_cast<double>(n_rows * n_cols * m));
    }
}

// The caches of many layers, one after the other, as a model reads them.
void bench_attention(int32_t isa, const ei::Format &format, int n_threads) {
    constexpr int32_t n_kv = 4096, head_dim = 128, n_group = 6, n_kv_heads = 2, n_layers = 16, tokens_at_once = 10;
    constexpr int64_t n_heads = n_kv_heads * n_group;
    const size_t head = head_dim * sizeof(float), stored = static_cast<size_t>(head_dim / format.block_size) * format.block_bytes;
    const size_t cell = n_kv_heads * stored, token = n_heads * head, layer = n_kv * cell;
    std::vector<uint8_t> k(n_layers * layer, 0x22), v(k);  // any half or int8 of these is a plain number
    std::vector<uint16_t> mask(kMost * n_kv, 0);
    std::vector<float> q(static_cast<size_t>(kMost * n_heads) * head_dim, 0.5f), out(q.size());
    const auto bytes = [](auto &values) { return reinterpret_cast<char *>(values.data()); };
    const ei_attention_args first_layer{bytes(q), bytes(k), bytes(v), bytes(mask), bytes(out), token, head, cell, stored, cell, stored,
                                        n_kv * sizeof(uint16_t), token, head, n_kv, head_dim, n_group, 0.09f};
    const size_t scratch_bytes = ei_attention_scratch_bytes(n_kv, head_dim, tokens_at_once, n_group, 1);
    Buffer scratch(scratch_bytes * static_cast<size_t>(n_threads));
    double first = 0;
    for (const int64_t m : kColumns) {
        const int32_t n_tokens = static_cast<int32_t>(m), n_blocks = (n_tokens + tokens_at_once - 1) / tokens_at_once;
        const double t = measure(n_threads, int64_t{n_layers} * n_kv_heads * n_blocks, 1, [&](int thread, int64_t item, int64_t) {
            const int32_t begin = static_cast<int32_t>(item % n_blocks) * tokens_at_once, n = std::min(tokens_at_once, n_tokens - begin);
            const int64_t heads_before = item / n_blocks;
            ei_attention_args args = first_layer;
            const size_t layers_before = static_cast<size_t>(heads_before / n_kv_heads) * layer;
            args.k += layers_before, args.v += layers_before;
            const ei_attention_unit unit{static_cast<int32_t>(heads_before % n_kv_heads), begin, n, 0, n_group,
                                         scratch.data() + static_cast<size_t>(thread) * scratch_bytes, 0, 1, 0};
            ei_attention(isa, format.id, &args, &unit);
        });
        if (m == 1) first = t;
        print("attention", format.name, m, t, first, 2.0 * static_cast<double>(k.size()),
              4.0 * static_cast<double>(n_layers * n_heads * m) * n_kv * head_dim);
    }
}

}  // namespace

int main(int argc, char **argv) {
    const int n_threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    if (argc > 2 && ei_force_isa(argv[2]) != EI_OK) {
        std::fprintf(stderr, "%s is not available here\n", argv[2]);
        return 1;
    }
    const auto wanted = [&](const char *name) {
        return argc <= 3 || std::any_of(argv + 3, argv + argc, [&](const char *a) { return std::strcmp(a, name) == 0; });
    };
    std::printf("%s, %d threads (quantize: 1)\n", ei_isa_name(ei_best_isa()), n_threads);
    std::printf("%-9s %-7s %4s %9s %7s %7s %6s\n", "op", "format", "M", "ms", "GB/s", "GOPS", "v(M)");
    for (int32_t id = 0; id < 64; ++id) {
        const ei::Format *format = ei::find_format(id);
        if (format != nullptr && wanted(format->name)) bench_format(ei_best_isa(), *format, n_threads);
    }
    for (const int32_t id : {EI_FORMAT_F16, EI_FORMAT_Q8_0}) {
        if (wanted("attention")) bench_attention(ei_best_isa(), *ei::find_format(id), n_threads);
    }
    return 0;
}
