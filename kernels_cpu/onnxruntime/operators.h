// Our operators, as ONNX Runtime asks for them. Each is a kernel class with
//     static OrtStatus *create(const OrtKernelInfo *, Kernel **)   a node's attributes and initializers, checked once
//     OrtStatus *compute(OrtKernelContext *) const                 a run
#ifndef EI_ONNXRUNTIME_OPERATORS_H
#define EI_ONNXRUNTIME_OPERATORS_H

#include "onnxruntime/session.h"

namespace ei {

struct Port {
    int type, characteristic;
};

struct Operator : OrtCustomOp {
    static constexpr size_t kMostPorts = 9;

    const char *name;
    size_t n_inputs, n_outputs;
    Port inputs[kMostPorts], outputs[2];
};

// Multiply(x, packed [, bias] of each weight) -> x times each of up to four packed weights that share it.
//     formats, n_rows, biased: ints, one a weight; n_cols; two_terms, which may be missing: 1 for inputs of 15 bits instead of 8, where all
//     weights are Q8_0
const Operator *multiply_operator();
// Normalize(x, weight [, skip]) -> root-mean-square norm of x + skip, times weight [, x + skip].
//     epsilon; the norm is over as many elements as the weight has
const Operator *normalize_operator();
// Gate(gate, up) -> activation(gate) * up.
//     activation: "silu" or "gelu" (the approximation by a hyperbolic tangent)
const Operator *gate_operator();
// Attention(q, k, v, cos, sin, positions, cells, mask, pool) -> what the tokens' queries find; writes their keys and values to the pool.
//     layer, n_heads, n_kv_heads, kv_format, scale
const Operator *attention_operator();

// The functions of an operator whose kernels are of class Kernel.
template <class Kernel>
Operator make_operator(const char *name) {
    Operator op{};
    op.version = ort::kApiVersion;
    op.name = name;
    op.GetName = [](const OrtCustomOp *op) { return static_cast<const Operator *>(op)->name; };
    op.GetExecutionProviderType = [](const OrtCustomOp *) -> const char * { return nullptr; };
    op.GetInputTypeCount = [](const OrtCustomOp *op) { return static_cast<const Operator *>(op)->n_inputs; };
    op.GetOutputTypeCount = [](const OrtCustomOp *op) { return static_cast<const Operator *>(op)->n_outputs; };
    op.GetInputType = [](const OrtCustomOp *op, size_t i) { return static_cast<const Operator *>(op)->inputs[i].type; };
    op.GetOutputType = [](const OrtCustomOp *op, size_t i) { return static_cast<const Operator *>(op)->outputs[i].type; };
    op.GetInputCharacteristic = [](const OrtCustomOp *op, size_t i) { return static_cast<const Operator *>(op)->inputs[i].characteristic; };
    op.GetOutputCharacteristic = [](const OrtCustomOp *op, size_t i) {
        return static_cast<const Operator *>(op)->outputs[i].characteristic;
    };
    op.GetInputMemoryType = [](const OrtCustomOp *, size_t) { return static_cast<int>(ort::kDefaultMemory); };
    op.GetVariadicInputMinArity = [](const OrtCustomOp *) { return 1; };
    op.GetVariadicInputHomogeneity = [](const OrtCustomOp *) { return 0; };
    op.GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
    op.GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
    op.CreateKernelV2 = [](const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *info, void **kernel) {
        return Kernel::create(info, reinterpret_cast<Kernel **>(kernel));
    };
    op.KernelComputeV2 = [](void *kernel, OrtKernelContext *context) { return static_cast<const Kernel *>(kernel)->compute(context); };
    op.KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
    op.GetStartVersion = [](const OrtCustomOp *) { return 1; };
    op.GetEndVersion = [](const OrtCustomOp *) { return 1; };
    return op;
}

}  // namespace ei
#endif
