// edgeinfer::Gate: activation(gate) * up.
#include <cstring>
#include <new>

#include "core/isa.h"
#include "core/kernel.h"
#include "onnxruntime/operators.h"

namespace ei {
namespace {

class GateKernel {
  public:
    static OrtStatus *create(const OrtKernelInfo *info, GateKernel **kernel) {
        GateKernel made(info);
        char activation[16] = {};
        EI_TRY(made.node_.read(info, "activation", activation, sizeof activation));
        const bool silu = std::strcmp(activation, "silu") == 0;
        if (!silu && std::strcmp(activation, "gelu") != 0) return made.node_.fail("no activation is called %s", activation);
        made.kernel_ = choose_kernel(Op::gate, silu ? kSilu : kGelu, ei_best_isa());
        *kernel = new (std::nothrow) GateKernel(made);
        return *kernel ? nullptr : made.node_.fail("out of memory");
    }

    OrtStatus *compute(OrtKernelContext *context) const {
        Tensor gate, up;
        EI_TRY(read_input(node_, context, 0, "gate", ort::kFloat, &gate));
        EI_TRY(read_input(node_, context, 1, "up", ort::kFloat, &up));
        if (!gate.same_shape(up)) return node_.fail("gate and up are not of one shape");
        float *out = nullptr;
        EI_TRY(make_output(context, 0, gate.shape, gate.n_dims, &out));
        constexpr int64_t kStep = 8192;
        const int64_t n = gate.count();
        const int n_threads = node_.threads(gate.n_dims > 0 && gate.last() > 0 ? n / gate.last() : 1);
        return share_out(context, n_threads, (n + kStep - 1) / kStep, [&](int, int64_t i) {
            const int64_t first = i * kStep, count = std::min(kStep, n - first);
            kernel_->gate(gate.as<float>() + first, up.as<float>() + first, out + first, count);
        });
    }

  private:
    explicit GateKernel(const OrtKernelInfo *info) : node_(info) {}

    Node node_;
    const Kernel *kernel_ = nullptr;
};

}  // namespace

const Operator *gate_operator() {
    static const Operator op = [] {
        Operator op = make_operator<GateKernel>("Gate");
        op.n_inputs = 2, op.n_outputs = 1;
        op.inputs[0] = op.inputs[1] = {ort::kFloat, ort::kRequired};
        op.outputs[0] = {ort::kFloat, ort::kRequired};
        return op;
    }();
    return &op;
}

}  // namespace ei
