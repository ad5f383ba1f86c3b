// edgeinfer::Normalize: the root-mean-square norm of x, or of x + skip.
#include <cstring>
#include <new>

#include "onnxruntime/norm.h"
#include "onnxruntime/operators.h"

namespace ei {
namespace {

class NormalizeKernel {
  public:
    static OrtStatus *create(const OrtKernelInfo *info, NormalizeKernel **kernel) {
        NormalizeKernel made(info);
        EI_TRY(made.node_.read(info, "epsilon", &made.epsilon_));
        *kernel = new (std::nothrow) NormalizeKernel(made);
        return *kernel ? nullptr : made.node_.fail("out of memory");
    }

    OrtStatus *compute(OrtKernelContext *context) const {
        Tensor x, weight, skip;
        EI_TRY(read_input(node_, context, 0, "x", ort::kFloat, &x));
        EI_TRY(read_input(node_, context, 1, "weight", ort::kFloat, &weight));
        EI_TRY(read_input(node_, context, 2, "skip", ort::kFloat, &skip, false));
        const int64_t n = weight.count(), count = x.count();
        if (x.n_dims < 1 || n < 1 || x.last() % n != 0) {
            return node_.fail("rows of %lld are not whole runs of the weight's %lld", wide(x.last()), wide(n));
        }
        if (skip.data != nullptr && !skip.same_shape(x)) return node_.fail("skip is not of the shape of x");
        float *y = nullptr, *sum = nullptr;
        EI_TRY(make_output(context, 0, x.shape, x.n_dims, &y));
        EI_TRY(make_output(context, 1, x.shape, x.n_dims, &sum));
        if (count == 0 || y == nullptr) return nullptr;
        if (skip.data == nullptr && sum != nullptr) std::memcpy(sum, x.data, static_cast<size_t>(count) * sizeof(float));
        // Nobody asks for the sum: it goes where the norm will be.
        float *const to = skip.data == nullptr ? nullptr : sum != nullptr ? sum : y;
        const int64_t n_rows = count / n, step = std::max<int64_t>(1, 8192 / n);
        const int n_threads = node_.threads(count / x.last());
        return share_out(context, n_threads, (n_rows + step - 1) / step, [&](int, int64_t i) {
            for (int64_t at = i * step * n; at < std::min(n_rows, (i + 1) * step) * n; at += n) {
                const float *const more = skip.data == nullptr ? nullptr : skip.as<float>() + at;
                normalize_row(x.as<float>() + at, more, weight.as<float>(), epsilon_, n, to == nullptr ? nullptr : to + at, y + at);
            }
        });
    }

  private:
    explicit NormalizeKernel(const OrtKernelInfo *info) : node_(info) {}

    Node node_;
    float epsilon_ = 0.0f;
};

}  // namespace

const Operator *normalize_operator() {
    static const Operator op = [] {
        Operator op = make_operator<NormalizeKernel>("Normalize");
        op.n_inputs = 3, op.n_outputs = 2;
        op.inputs[0] = op.inputs[1] = {ort::kFloat, ort::kRequired}, op.inputs[2] = {ort::kFloat, ort::kOptional};
        op.outputs[0] = {ort::kFloat, ort::kRequired}, op.outputs[1] = {ort::kFloat, ort::kOptional};
        return op;
    }();
    return &op;
}

}  // namespace ei
