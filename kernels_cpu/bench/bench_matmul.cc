// bench_matmul [THREADS [ISA [FORMAT...]]]: for each format and M, the time of one product of a matrix that is larger than the caches, as
// ms, GB/s of weights, GOPS (2 per multiply-accumulate) and the ratio to M = 1. Compare with the limits that `edgeinfer doctor` prints.
// The time is processor time per thread (std::clock), tenth percentile, so that a busy machine disturbs it little.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "core/formats.h"
#include "core/isa.h"
#include "tests/random.h"

namespace {

double processor_time() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Case {
    int32_t isa, format;
    int64_t n_rows, n_cols, n_columns;
    const uint8_t *packed;
    const float *x;
    uint8_t *activations;
    float *out;
};

double run_once(const Case &c, int n_threads) {
    const int64_t n_panels = ei_n_panels(c.n_rows), n_items = ei_n_quantize_items(c.format, c.n_cols, c.n_columns);
    const int64_t chunk = c.n_columns > 16 ? 8 : 4;
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t p; (p = next.fetch_add(chunk)) < n_panels;) {
            ei_matmul(c.isa, c.format, c.packed, c.n_rows, c.n_cols, c.activations, c.n_columns, c.out, static_cast<size_t>(c.n_rows), p,
                      std::min(chunk, n_panels - p));
        }
    };
    std::vector<std::thread> threads;
    const double begin = processor_time();
    ei_quantize(c.isa, c.format, c.x, static_cast<size_t>(c.n_cols), c.n_cols, c.n_columns, c.activations, 0, n_items);
    for (int t = 1; t < n_threads; ++t) threads.emplace_back(work);
    work();
    for (std::thread &thread : threads) thread.join();
    return (processor_time() - begin) / n_threads;
}

double measure(const Case &c, int n_threads, double seconds) {
    std::vector<double> times;
    for (double spent = 0; spent < seconds || times.size() < 3; spent += times.back()) times.push_back(run_once(c, n_threads));
    std::sort(times.begin(), times.end());
    return times[times.size() / 10];
}

void bench_format(int32_t isa, const ei::Format &format, int n_threads) {
    const int64_t n_cols = 1536, n_rows = 65536, most = 128;
    const size_t row_bytes = static_cast<size_t>(n_cols / format.block_size) * format.block_bytes;
    const std::vector<uint8_t> rows(row_bytes * n_rows, 0x11);
    Buffer packed(ei_packed_bytes(format.id, n_rows, n_cols));
    ei_pack(format.id, rows.data(), row_bytes, n_rows, n_cols, packed.data(), 0, ei_n_panels(n_rows));
    std::vector<float> x(n_cols * most, 0.5f), out(static_cast<size_t>(n_rows * most));
    Buffer activations(ei_activation_bytes(format.id, n_cols, most));
    double first = 0;
    for (const int64_t m : {1, 2, 3, 4, 5, 6, 8, 12, 16, 128}) {
        const double t = measure({isa, format.id, n_rows, n_cols, m, packed.data(), x.data(), activations.data(), out.data()}, n_threads, 0.3);
        if (m == 1) first = t;
        std::printf("%-7s %4d %9.3f %7.1f %7.1f %6.2f\n", format.name, static_cast<int>(m), t * 1e3,
                    static_cast<double>(ei_packed_bytes(format.id, n_rows, n_cols)) / t * 1e-9,
                    2.0 * static_cast<double>(n_rows * n_cols * m) / t * 1e-9, t / first);
        std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char **argv) {
    const int n_threads = argc > 1 ? std::atoi(argv[1]) : 1;
    if (argc > 2 && ei_force_isa(argv[2]) != EI_OK) {
        std::fprintf(stderr, "%s is not available here\n", argv[2]);
        return 1;
    }
    std::printf("%s, %d threads\n%-7s %4s %9s %7s %7s %6s\n", ei_isa_name(ei_best_isa()), n_threads, "format", "M", "ms", "GB/s", "GOPS", "v(M)");
    for (int32_t id = 0; id < 64; ++id) {
        const ei::Format *format = ei::find_format(id);
        if (format == nullptr) continue;
        if (argc > 3 && std::none_of(argv + 3, argv + argc, [&](const char *a) { return std::strcmp(a, format->name) == 0; })) continue;
        bench_format(ei_best_isa(), *format, n_threads);
    }
    return 0;
}
