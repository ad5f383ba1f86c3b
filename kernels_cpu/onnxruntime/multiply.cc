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

    Node node_;
    int64_t n_cols_ = 0;
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
            return node_.fail("there is no product of format %lld with rows of %lld", static_cast<long long>(formats[i]), static_cast<long long>(n_cols_));
        }
        if (n_rows[i] < 1 || n_rows[i] > INT32_MAX) return node_.fail("n_rows is %lld", static_cast<long long>(n_rows[i]));
        weights_[i].format = static_cast<int32_t>(formats[i]), weights_[i].n_rows = n_rows[i];
        EI_TRY(read_weight(info, i, biased[i] != 0, &input));
    }
    return nullptr;
}

OrtStatus *MultiplyKernel::read_weight(const OrtKernelInfo *info, size_t index, bool biased, size_t *input) {
    Weight &w = weights_[index];
    Tensor packed, bias;
    EI_TRY(read_constant(node_, info, (*input)++, "the packed weight", ort::kUint8, &packed));
    const size_t wanted = ei_packed_bytes(w.format, w.n_rows, n_cols_);
    if (static_cast<size_t>(packed.count()) != wanted) {
        return node_.fail("the packed weight has %lld bytes, not %zu", static_cast<long long>(packed.count()), wanted);
    }
    if (reinterpret_cast<size_t>(packed.data) % 64 != 0) return node_.fail("the packed weight does not begin at a multiple of 64");
    w.packed = packed.data;
    if (biased) {
        EI_TRY(read_constant(node_, info, (*input)++, "the bias", ort::kFloat, &bias));
        if (bias.count() != w.n_rows) return node_.fail("the bias has %lld elements, not %lld", static_cast<long long>(bias.count()), static_cast<long long>(w.n_rows));
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

OrtStatus *MultiplyKernel::compute(OrtKernelContext *context) const {
    Tensor x;
    EI_TRY(read_input(node_, context, 0, "x", ort::kFloat, &x));
    if (x.n_dims < 1 || x.last() != n_cols_) return node_.fail("x has rows of %lld, not %lld", static_cast<long long>(x.last()), static_cast<long long>(n_cols_));
    const int64_t m = x.count() / n_cols_;
    const int n_threads = node_.threads(m);
    const Columns columns{x.data, m, 1, static_cast<size_t>(n_cols_) * sizeof(float), 0, 0};
    // Products, where each weight's quantized x is and where its results go, and the first chunk of each.
    alignas(Product) char products_memory[kMostWeights * sizeof(Product)];
    Product *const products = reinterpret_cast<Product *>(products_memory);
    Columns out[kMostWeights];
    size_t at[kMostWeights + 1] = {};
    int64_t chunk[kMostWeights], first_chunk[kMostWeights + 1] = {}, first_item[kMostWeights + 1] = {};
    for (size_t i = 0; i < n_weights_; ++i) {
        const Weight &w = weights_[i];
        const Product &p = *new (products + i) Product(w.format, n_cols_, w.n_rows, m);
        float *y = nullptr;
        x.shape[x.n_dims - 1] = w.n_rows;
        EI_TRY(make_output(context, i, x.shape, x.n_dims, &y));
        out[i] = {reinterpret_cast<char *>(y), m, 1, static_cast<size_t>(w.n_rows) * sizeof(float), 0, 0};
        at[i + 1] = at[i] + (w.like == i ? p.activation_bytes() : 0);
        first_item[i + 1] = first_item[i] + (w.like == i ? p.n_items() : 0);
        chunk[i] = p.chunk_panels(n_threads);
        first_chunk[i + 1] = first_chunk[i] + (y ? divide_up(p.n_panels, chunk[i]) : 0);
    }
    if (m == 0) return nullptr;
    char *const activations = workspace(at[n_weights_]);
    if (activations == nullptr) return node_.fail("out of memory");

    const auto quantize = [&](int64_t first, int64_t last) {
        for (size_t i = 0; i < n_weights_; ++i) {
            const int64_t begin = std::max(first, first_item[i]), end = std::min(last, first_item[i + 1]);
            if (begin < end) products[i].quantize_items(columns, activations + at[i], begin - first_item[i], end - first_item[i]);
        }
    };
    const int64_t n_items = first_item[n_weights_];
    if (n_threads == 1 || products[0].small_x()) {
        quantize(0, n_items);
    } else {
        const int64_t step = divide_up(n_items, 4 * n_threads);
        EI_TRY(share_out(context, n_threads, divide_up(n_items, step), [&](int, int64_t i) { quantize(i * step, std::min(n_items, (i + 1) * step)); }));
    }
    return share_out(context, n_threads, first_chunk[n_weights_], [&](int, int64_t index) {
        size_t i = 0;
        while (index >= first_chunk[i + 1]) ++i;
        const Product &p = products[i];
        const int64_t first = (index - first_chunk[i]) * chunk[i], last = std::min(first + chunk[i], p.n_panels);
        p.multiply(weights_[i].packed, activations + at[weights_[i].like], out[i], first, last);
        if (weights_[i].bias) add_bias(out[i], m, weights_[i].bias, first * kPanelRows, std::min(last * kPanelRows, p.n_rows));
    });
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
