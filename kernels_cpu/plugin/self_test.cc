// Before a model sees the plug-in: is ggml what abi/ says, and do products and attention through ggml's own front door give the bits of the
// scalar reference?
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "core/half.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "edgeinfer_kernels.h"
#include "matmul/terms.h"
#include "plugin/install.h"
#include "plugin/operations.h"

namespace ei {
namespace {

// A context without data, gone at the end of its scope.
struct ScopedContext {
    ggml::Context *context = g_ggml.ggml_init({g_ggml.ggml_tensor_overhead() * 16 + g_ggml.ggml_graph_overhead(), nullptr, true});
    ggml::Buffer *buffer = nullptr;

    ScopedContext() = default;
    ScopedContext(const ScopedContext &) = delete;
    ScopedContext &operator=(const ScopedContext &) = delete;
    ~ScopedContext() {
        if (buffer) g_ggml.ggml_backend_buffer_free(buffer);
        if (context) g_ggml.ggml_free(context);
    }
    ggml::Tensor *tensor(int32_t type, int64_t a, int64_t b, int64_t c = 1) { return g_ggml.ggml_new_tensor_3d(context, type, a, b, c); }
    bool allocate(ggml::BufferType *type) { return (buffer = g_ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, type)) != nullptr; }
};

template <class T>
struct Memory {
    char *raw;
    explicit Memory(size_t n) : raw(static_cast<char *>(std::calloc(n * sizeof(T) + 64, 1))) {}
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory() { std::free(raw); }
    T *data() { return reinterpret_cast<T *>(round_up(reinterpret_cast<size_t>(raw), 64)); }
};

uint32_t next(uint32_t &state) { return state = state * 1664525u + 1013904223u; }
float unit(uint32_t &state) { return static_cast<float>(static_cast<int32_t>(next(state)) >> 8) * 0x1p-23f; }

bool compute(ggml::Context *context, ggml::Tensor *result) {
    ggml::Graph *graph = g_ggml.ggml_new_graph(context);
    ggml::Backend *backend = g_ggml.ggml_backend_cpu_init();
    if (graph == nullptr || backend == nullptr) return false;
    g_ggml.ggml_build_forward_expand(graph, result);
    g_ggml.ggml_backend_cpu_set_n_threads(backend, 2);
    const bool done = g_ggml.ggml_backend_graph_compute(backend, graph) == ggml::kSuccess;
    g_ggml.ggml_backend_free(backend);
    return done;
}

constexpr int64_t kCols = 512, kRows = 40, kColumns = 11, kExperts = 3, kUsed = 2;

void fill_rows(const Format &format, uint8_t *rows, size_t n_bytes, uint32_t &state) {
    for (size_t i = 0; i < n_bytes; ++i) rows[i] = static_cast<uint8_t>(next(state) >> 24);
    if (format.activation == Activation::float32) {
        // The sign stays; the rest of the last byte is an exponent of small numbers.
        for (size_t last = format.block_bytes - 1; last < n_bytes; last += format.block_bytes) rows[last] = (rows[last] & 0x80) | 0x28;
        return;
    }
    // Whatever field of a block is a half: a small exponent makes it a plain number.
    for (size_t at = 0; at < n_bytes; at += format.block_bytes) {
        const size_t d = format.id == EI_FORMAT_Q6_K ? format.block_bytes - 2 : 0;
        rows[at + d + 1] = 0x20;
        rows[at + (format.id == EI_FORMAT_Q6_K ? d : 2) + 1] = 0x20;
    }
}

// What ei_matmul of the scalar kernel gives for one matrix.
void one_term(const Format &format, const uint8_t *rows, const float *x, int64_t n_columns, float *y) {
    Memory<uint8_t> packed(ei_packed_bytes(format.id, kRows, kCols)), activations(ei_activation_bytes(format.id, kCols, n_columns));
    ei_pack(format.id, rows, static_cast<size_t>(kCols / format.block_size) * format.block_bytes, kRows, kCols, packed.data(), 0, ei_n_panels(kRows));
    ei_quantize(EI_ISA_SCALAR, format.id, x, kCols, kCols, n_columns, activations.data(), 0, ei_n_quantize_items(format.id, kCols, n_columns));
    ei_matmul(EI_ISA_SCALAR, format.id, packed.data(), kRows, kCols, activations.data(), n_columns, y, kRows, 0, ei_n_panels(kRows));
}

// The same for x as one term or as two.
void reference(const Format &format, const uint8_t *rows, const float *x, int64_t n_columns, float *y, int n_terms) {
    if (n_terms == 1) return one_term(format, rows, x, n_columns, y);
    Memory<float> rounded(kCols * n_columns), rest(kCols * n_columns), second(kRows * n_columns);
    for (int64_t at = 0; at < kCols * n_columns; at += kTermBlock) split_block(x + at, rounded.data() + at, rest.data() + at);
    one_term(format, rows, rounded.data(), n_columns, y);
    one_term(format, rows, rest.data(), n_columns, second.data());
    for (int64_t i = 0; i < kRows * n_columns; ++i) y[i] += second.data()[i];
}

bool test_product(const Format &format, int n_terms) {
    uint32_t state = 1;
    const size_t n_bytes = static_cast<size_t>(kRows * kCols / format.block_size) * format.block_bytes;
    Memory<uint8_t> rows(n_bytes);
    Memory<float> x(kCols * kColumns), want(kRows * kColumns);
    fill_rows(format, rows.data(), n_bytes, state);
    for (int64_t i = 0; i < kCols * kColumns; ++i) x.data()[i] = unit(state);
    ScopedContext weights, graph;
    ggml::Tensor *w = weights.tensor(format.id, kCols, kRows);
    ggml::Tensor *input = graph.tensor(ggml::kF32, kCols, kColumns), *y = g_ggml.ggml_mul_mat(graph.context, w, input);
    if (!weights.allocate(hooked_buffer_type()) || !graph.allocate(g_ggml.ggml_backend_cpu_buffer_type())) return false;
    g_ggml.ggml_backend_tensor_set(w, rows.data(), 0, n_bytes);
    std::memcpy(input->data, x.data(), sizeof(float) * kCols * kColumns);
    const int64_t before = g_counters.multiplied;
    if (!compute(graph.context, y) || g_counters.multiplied == before) return false;
    reference(format, rows.data(), x.data(), kColumns, want.data(), n_terms);
    return std::memcmp(want.data(), y->data, sizeof(float) * kRows * kColumns) == 0;
}

// Two of three experts for each of 11 tokens.
bool test_experts(const Format &format, int n_terms) {
    uint32_t state = 2;
    const size_t n_bytes = static_cast<size_t>(kRows * kCols / format.block_size) * format.block_bytes;
    Memory<uint8_t> rows(n_bytes * kExperts);
    Memory<float> x(kCols * kColumns), want(kRows);
    fill_rows(format, rows.data(), n_bytes * kExperts, state);
    for (int64_t i = 0; i < kCols * kColumns; ++i) x.data()[i] = unit(state);
    ScopedContext weights, graph;
    ggml::Tensor *w = weights.tensor(format.id, kCols, kRows, kExperts);
    ggml::Tensor *input = graph.tensor(ggml::kF32, kCols, 1, kColumns), *ids = graph.tensor(ggml::kI32, kUsed, kColumns);
    ggml::Tensor *y = g_ggml.ggml_mul_mat_id(graph.context, w, input, ids);
    if (!weights.allocate(hooked_buffer_type()) || !graph.allocate(g_ggml.ggml_backend_cpu_buffer_type())) return false;
    g_ggml.ggml_backend_tensor_set(w, rows.data(), 0, n_bytes * kExperts);
    std::memcpy(input->data, x.data(), sizeof(float) * kCols * kColumns);
    int32_t *expert = static_cast<int32_t *>(ids->data);
    for (int64_t i = 0; i < kUsed * kColumns; ++i) expert[i] = static_cast<int32_t>((i + i / 5) % kExperts);
    const int64_t before = g_counters.multiplied;
    if (!compute(graph.context, y) || g_counters.multiplied == before) return false;
    for (int64_t i = 0; i < kUsed * kColumns; ++i) {
        reference(format, rows.data() + static_cast<size_t>(expert[i]) * n_bytes, x.data() + i / kUsed * kCols, 1, want.data(), n_terms);
        if (std::memcmp(want.data(), static_cast<const float *>(y->data) + i * kRows, sizeof(float) * kRows) != 0) return false;
    }
    return true;
}

bool test_attention(const Format &format, int64_t n_kv) {
    constexpr int64_t dim = 64, tokens = 3, heads = 6, kv_heads = 1;
    uint32_t state = 3;
    ScopedContext graph;
    ggml::Tensor *q = graph.tensor(ggml::kF32, dim, tokens, heads), *k = graph.tensor(format.id, dim, n_kv, kv_heads);
    ggml::Tensor *v = graph.tensor(format.id, dim, n_kv, kv_heads), *mask = graph.tensor(ggml::kF16, n_kv, tokens);
    ggml::Tensor *y = g_ggml.ggml_flash_attn_ext(graph.context, q, k, v, mask, 0.125f, 0.0f, 0.0f);
    if (!graph.allocate(g_ggml.ggml_backend_cpu_buffer_type())) return false;
    for (int64_t i = 0; i < dim * tokens * heads; ++i) static_cast<float *>(q->data)[i] = unit(state);
    for (ggml::Tensor *cache : {k, v}) {
        fill_rows(format, static_cast<uint8_t *>(cache->data), g_ggml.ggml_nbytes(cache), state);
    }
    for (int64_t i = 0; i < n_kv * tokens; ++i) static_cast<uint16_t *>(mask->data)[i] = i % n_kv < n_kv - 90 + i / n_kv ? 0 : 0xfc00;
    const int64_t before = g_counters.attended;
    if (!compute(graph.context, y) || g_counters.attended == before) return false;

    Memory<float> want(dim * tokens * heads);
    Memory<char> scratch(ei_attention_scratch_bytes(n_kv, dim, tokens, heads / kv_heads, 1));
    const auto bytes = [](const ggml::Tensor *tensor) { return static_cast<const char *>(tensor->data); };
    const AttentionArgs args{bytes(q), bytes(k), bytes(v), bytes(mask), reinterpret_cast<char *>(want.data()),
                             q->nb[1], q->nb[2], k->nb[1], k->nb[2], v->nb[1], v->nb[2], mask->nb[1], y->nb[2], y->nb[1], n_kv, dim, heads / kv_heads, 0.125f};
    const Kernel *kernel = choose_kernel(Op::attention, format.id, EI_ISA_SCALAR);
    for (int h = 0; h < kv_heads; ++h) kernel->attention(args, {h, 0, tokens, 0, heads / kv_heads, scratch.data(), 0, 1, 0});
    return std::memcmp(want.data(), y->data, sizeof(float) * dim * tokens * heads) == 0;
}

}  // namespace

const char *check_structures() {
    const char *const other = "llama.cpp's structures are not those our kernels were written for";
    const auto named = [](int32_t op, const char *name) { return std::strcmp(g_ggml.ggml_op_name(op), name) == 0; };
    if (!named(ggml::kMulMat, "MUL_MAT") || !named(ggml::kMulMatId, "MUL_MAT_ID") || !named(ggml::kFlashAttention, "FLASH_ATTN_EXT")) return other;
    constexpr size_t kObjectBytes = 32;  // ggml_object, which precedes each tensor of a context
    if (g_ggml.ggml_tensor_overhead() != kObjectBytes + sizeof(ggml::Tensor)) return other;
    ScopedContext scope;
    if (scope.context == nullptr) return other;
    ggml::Tensor *a = scope.tensor(ggml::kF32, 32, 7, 1), *b = scope.tensor(ggml::kF32, 32, 5, 1);
    g_ggml.ggml_set_name(a, "edgeinfer");
    const ggml::Tensor *y = g_ggml.ggml_mul_mat(scope.context, a, b);
    const bool fields = a->type == ggml::kF32 && a->ne[0] == 32 && a->ne[1] == 7 && a->nb[1] == 128 && std::strcmp(a->name, "edgeinfer") == 0 &&
                        a->buffer == nullptr && a->data == nullptr && a->extra == nullptr && a->view_src == nullptr;
    if (!fields || y->op != ggml::kMulMat || y->src[0] != a || y->src[1] != b || y->src[2] != nullptr || y->ne[0] != 7 || y->ne[1] != 5) return other;
    for (int32_t id = 0; id < 43; ++id) {
        const Format *format = find_format(id);
        if (format != nullptr && g_ggml.ggml_type_size(id) != format->block_bytes) return other;
    }
    return nullptr;
}

const char *self_test() {
    static char message[128];
    const auto failed = [](const char *what, const char *format) {
        std::snprintf(message, sizeof message, "our %s for %s gave a wrong result in this build of llama.cpp", what, format);
        return static_cast<const char *>(message);
    };
    expect_weights(true);
    for (int32_t id = 0; id < 43; ++id) {
        const Format *format = find_format(id);
        if (format != nullptr && !test_product(*format, 1)) return failed("product", format->name);
    }
    if (!test_experts(*find_format(EI_FORMAT_Q4_K), 1)) return failed("product of experts", "q4_k");
    expect_weights(false);
    const Format &bytes = *find_format(EI_FORMAT_Q8_0);
    if (!test_product(bytes, 2) || !test_experts(bytes, 2)) return failed("product with inputs of 15 bits", "q8_0");
    for (int32_t id : {EI_FORMAT_F16, EI_FORMAT_Q8_0}) {
        const Format &format = *find_format(id);
        // One length is shared out by heads, the other by cells as well.
        if (!test_attention(format, 192) || !test_attention(format, 3072)) return failed("attention", format.name);
    }
    return nullptr;
}

}  // namespace ei
