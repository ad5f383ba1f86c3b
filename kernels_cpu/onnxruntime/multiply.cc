// edgeinfer::Multiply: x times up to four packed weights. They share what x is quantized to, and the threads' way there and back.
#include <new>

#include "matmul/product.h"
#include "onnxruntime/operators.h"

namespace ei {
namespace {

constexpr size_t kMostWeights = 4;

struct Weight {
    int32_t format;
    int64_t n_rows;
    const char *packed;
    const float *bias;  // or null
    size_t like;        // the first weight whose quantized x is the same
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

class MultiplyKernel {
  public:
    static OrtStatus *create(const OrtKernelInfo *info, MultiplyKernel **kernel) {
        MultiplyKernel made(info);
        EI_TRY(made.read(info));
        *kernel = new (std::nothrow) MultiplyKernel(made);
        return *kernel ? nullptr : made.node_.fail("out of memory");
    }

    OrtStatus *compute(OrtKernelContext *context) const;

  private:
    explicit MultiplyKernel(const OrtKernelInfo *info) : node_(info) {}
    OrtStatus *read(const OrtKernelInfo *info);
    OrtStatus *read_weight(const OrtKernelInfo *info, size_t index, bool biased, size_t *input);
    OrtStatus *read_terms(const OrtKernelInfo *info);

    Node node_;
    int64_t n_cols_ = 0;
    int n_terms_ = 1;
    size_t n_weights_ = 0;
    Weight weights_[kMostWeights] = {};
};

OrtStatus *MultiplyKernel::read(const OrtKernelInfo *info) {
    int64_t formats[kMostWeights] = {}, n_rows[kMostWeights] = {}, biased[kMostWeights] = {};
    size_t n = 0, n_rows_given = 0, n_biased = 0, n_inputs = 0, n_outputs = 0, input = 1;
    EI_TRY(node_.read(info, "n_cols", 1, 1 << 24, &n_cols_));
    EI_TRY(node_.read(info, "formats", formats, kMostWeights, &n));
    EI_TRY(node_.read(info, "n_rows", n_rows, kMostWeights, &n_rows_given));
    EI_TRY(node_.read(info, "biased", biased, kMostWeights, &n_biased));
    EI_TRY(g_ort.KernelInfo_GetInputCount(info, &n_inputs));
    EI_TRY(g_ort.KernelInfo_GetOutputCount(info, &n_outputs));
    if (n < 1 || n_rows_given != n || n_biased != n || n_outputs != n) {
        return node_.fail("%zu formats, %zu n_rows, %zu biased and %zu outputs should be as many", n, n_rows_given, n_biased, n_outputs);
    }
    size_t wanted = 1;
    for (size_t i = 0; i < n; ++i) wanted += biased[i] ? 2 : 1;
    if (n_inputs != wanted) return node_.fail("%zu inputs, not %zu", n_inputs, wanted);
    for (n_weights_ = 0; n_weights_ < n; ++n_weights_) {
        const size_t i = n_weights_;
        if (formats[i] < 0 || formats[i] > EI_FORMAT_BF16 || !ei_has_matmul(static_cast<int32_t>(formats[i]), n_cols_)) {
            return node_.fail("there is no product of format %lld with rows of %lld", wide(formats[i]), wide(n_cols_));
        }
        if (n_rows[i] < 1 || n_rows[i] > INT32_MAX) return node_.fail("n_rows is %lld", wide(n_rows[i]));
        weights_[i].format = static_cast<int32_t>(formats[i]), weights_[i].n_rows = n_rows[i];
        EI_TRY(read_weight(info, i, biased[i] != 0, &input));
    }
    return read_terms(info);
}

OrtStatus *MultiplyKernel::read_terms(const OrtKernelInfo *info) {
    int64_t two = 0;
    if (OrtStatus *missing = g_ort.KernelInfoGetAttribute_int64(info, "two_terms", &two)) {
        g_ort.ReleaseStatus(missing);
        return nullptr;
    }
    if (two == 0) return nullptr;
    for (size_t i = 0; i < n_weights_; ++i) {
        if (weights_[i].format != EI_FORMAT_Q8_0) return node_.fail("two_terms are for Q8_0, not format %d", weights_[i].format);
    }
    n_terms_ = 2;
    return nullptr;
}

OrtStatus *MultiplyKernel::read_weight(const OrtKernelInfo *info, size_t index, bool biased, size_t *input) {
    Weight &w = weights_[index];
    Tensor packed, bias;
    EI_TRY(read_constant(node_, info, (*input)++, "the packed weight", ort::kUint8, &packed));
    const size_t wanted = ei_packed_bytes(w.format, w.n_rows, n_cols_);
    if (static_cast<size_t>(packed.count()) != wanted) {
        return node_.fail("the packed weight has %lld bytes, not %zu", wide(packed.count()), wanted);
    }
    if (reinterpret_cast<size_t>(packed.data) % 64 != 0) return node_.fail("the packed weight does not begin at a multiple of 64");
    w.packed = packed.data;
    if (biased) {
        EI_TRY(read_constant(node_, info, (*input)++, "the bias", ort::kFloat, &bias));
        if (bias.count() != w.n_rows) return node_.fail("the bias has %lld elements, not %lld", wide(bias.count()), wide(w.n_rows));
        w.bias = bias.as<float>();
    }
    const Format &mine = *find_format(w.format);
    for (w.like = 0; w.like < index; ++w.like) {
        const Format &other = *find_format(weights_[w.like].format);
        if (other.activation == mine.activation && other.zero_point == mine.zero_point) break;
    }
    return nullptr;
}

void add_bias(const Columns &out, int64_t n_columns, const float *bias, int64_t first_row, int64_t last_row) {
    for (int64_t c = 0; c < n_columns; ++c) {
        float *const y = out[c];
        for (int64_t row = first_row; row < last_row; ++row) y[row] += bias[row];
    }
}

// The products of one run: where each weight's quantized x is among the activations, where its results go, and how both kinds of work are
// counted through all weights.
struct Run {
    Product products[kMostWeights];
    Columns out[kMostWeights];
    size_t at[kMostWeights + 1] = {};
    int64_t first_item[kMostWeights + 1] = {}, chunk[kMostWeights] = {}, first_chunk[kMostWeights + 1] = {};
    size_t n = 0;

    void add(const Product &product, bool quantizes, float *y, int n_threads) {
        products[n] = product;
        out[n] = {reinterpret_cast<char *>(y), product.n_columns, 1, static_cast<size_t>(product.n_rows) * sizeof(float), 0, 0};
        at[n + 1] = at[n] + (quantizes ? product.activation_bytes() : 0);
        first_item[n + 1] = first_item[n] + (quantizes ? product.n_items() : 0);
        chunk[n] = product.chunk_panels(n_threads);
        first_chunk[n + 1] = first_chunk[n] + divide_up(product.n_panels, chunk[n]);
        ++n;
    }
    int64_t n_items() const { return first_item[n]; }
    int64_t n_chunks() const { return first_chunk[n]; }

    void quantize(const Columns &x, char *activations, int64_t first, int64_t last) const {
        for (size_t i = 0; i < n; ++i) {
            const int64_t begin = std::max(first, first_item[i]), end = std::min(last, first_item[i + 1]);
            if (begin < end) products[i].quantize_items(x, activations + at[i], begin - first_item[i], end - first_item[i]);
        }
    }
    void multiply(const Weight *weights, const char *activations, int64_t index) const {
        size_t i = 0;
        while (index >= first_chunk[i + 1]) ++i;
        const Product &p = products[i];
        const int64_t first = (index - first_chunk[i]) * chunk[i], last = std::min(first + chunk[i], p.n_panels);
        const int64_t row = first * kPanelRows, last_row = std::min(last * kPanelRows, p.n_rows);
        p.multiply(weights[i].packed, activations + at[weights[i].like], out[i], first, last);
        if (weights[i].bias) add_bias(out[i], p.n_columns, weights[i].bias, row, last_row);
    }
};

OrtStatus *MultiplyKernel::compute(OrtKernelContext *context) const {
    Tensor x;
    EI_TRY(read_input(node_, context, 0, "x", ort::kFloat, &x));
    if (x.n_dims < 1 || x.last() != n_cols_) return node_.fail("x has rows of %lld, not %lld", wide(x.last()), wide(n_cols_));
    const int64_t m = x.count() / n_cols_;
    const int n_threads = node_.threads(m);
    const Columns columns{x.data, m, 1, static_cast<size_t>(n_cols_) * sizeof(float), 0, 0};
    Run run;
    for (size_t i = 0; i < n_weights_; ++i) {
        const Weight &w = weights_[i];
        float *y = nullptr;
        x.shape[x.n_dims - 1] = w.n_rows;
        EI_TRY(make_output(context, i, x.shape, x.n_dims, &y));
        if (y == nullptr && m > 0) return node_.fail("output %zu has no place", i);
        if (m > 0) run.add(Product(w.format, n_cols_, w.n_rows, m, n_terms_), w.like == i, y, n_threads);
    }
    if (m == 0) return nullptr;
    char *const activations = workspace(run.at[run.n]);
    if (activations == nullptr) return node_.fail("out of memory");
    if (n_threads == 1 || run.products[0].small_x()) {
        run.quantize(columns, activations, 0, run.n_items());
    } else {
        const int64_t n_items = run.n_items(), step = divide_up(n_items, 4 * n_threads);
        const auto some = [&](int, int64_t i) { run.quantize(columns, activations, i * step, std::min(n_items, (i + 1) * step)); };
        EI_TRY(share_out(context, n_threads, divide_up(n_items, step), some));
    }
    return share_out(context, n_threads, run.n_chunks(), [&](int, int64_t index) { run.multiply(weights_, activations, index); });
}

}  // namespace

const Operator *multiply_operator() {
    static const Operator op = [] {
        Operator op = make_operator<MultiplyKernel>("Multiply");
        op.n_inputs = 2, op.n_outputs = 1;
        op.inputs[0] = {ort::kFloat, ort::kRequired}, op.inputs[1] = {ort::kAny, ort::kVariadic};
        op.outputs[0] = {ort::kFloat, ort::kVariadic};
        return op;
    }();
    return &op;
}

}  // namespace ei
