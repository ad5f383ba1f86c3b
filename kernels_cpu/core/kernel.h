// What a kernel file offers: one constant of the type below, found by core/kernel_table.cc under the name ei_kernel_<op>_<format>_<isa>.
#ifndef EI_CORE_KERNEL_H
#define EI_CORE_KERNEL_H

#include "core/formats.h"
#include "edgeinfer_kernels.h"

namespace ei {

// A stream through memory; see ei_probe_read.
using ProbeRead = uint64_t (*)(const void *buffer, size_t n_bytes);
// Register-only multiply-accumulate; see ei_probe_int8.
using ProbeInt8 = uint64_t (*)(uint64_t n_rounds);

// One activation block (core/formats.h) of up to 8 columns: columns[c] points at its first element of column c.
struct QuantizeArgs {
    Activation activation;
    int32_t zero_point;
    const float *const *columns;
    int n_columns;
    void *block;
    int n_elements;  // activation_block_length
};
using Quantize = void (*)(const QuantizeArgs &args);

// The product of one panel with one group of up to 8 columns. Per output, and so for every ISA to the bit:
//
//   formats of 32: y = 0; for each block: y = fma(d_weight * d_activation, float(I), y), then y = fma(m_weight, sum, y) where there is an m
//                  I = sum(q * a) + offset, exact in int32
//   K-quants:      y = 0; for each block: y = fma(-(dmin * d_activation), float(J), y) where there is a dmin,
//                  then y = fma(d_weight * d_activation, float(I), y)
//                  I = sum over sub-blocks of scale * (sum(q * a) + offset), J = sum of min * sum(a), exact in int32
//   F32, F16, BF16:  y = 0; for each 16 elements, or those that are left: s = 0, then s = fma(w, x, s) for each in turn, then y = y + s
//                  in single precision; weights widen exactly. Sixteens are independent until their s is added, which hides the latency
//                  of fused multiply-adds for one column without costing registers when there are many.
struct MatmulArgs {
    const uint8_t *panel;
    const uint8_t *activations;
    int64_t n_blocks;  // of the weights: elements of F32, F16 and BF16
    float *const *out;  // out[c] + 0 .. n_rows - 1 are written
    int n_columns;      // 1 .. 8
    int n_rows;         // 1 .. 16, fewer than 16 in a matrix's last panel
};
using Matmul = void (*)(const MatmulArgs &args);

// Attention; the C ABI has the whole description.
using AttentionArgs = ei_attention_args;
using AttentionUnit = ei_attention_unit;
using Attention = void (*)(const AttentionArgs &args, const AttentionUnit &unit);

// Which quantize kernel makes a kind of activation: one makes all of int8, another lays out floats.
enum Quantizer : int32_t { kQuantizeInt8 = 0, kQuantizeFloat32 = 1 };
constexpr Quantizer quantizer(Activation kind) { return kind == Activation::float32 ? kQuantizeFloat32 : kQuantizeInt8; }

// The k best of n logits are among those found, each as a word that is the greater the better (top_k/collect.h). -1 where a logit is NaN.
struct TopKArgs {
    const float *logits;
    int64_t n, k;     // 1 <= k <= n
    uint64_t *found;  // room for top_k_capacity(n, k)
};
using TopK = int64_t (*)(const TopKArgs &args);

// activation(x) * up of n elements; gate/gate.h has the formulas.
enum Activations : int32_t { kSilu = 0, kGelu = 1 };
using Gate = void (*)(const float *x, const float *up, float *out, int64_t n);

enum class Op : int32_t { probe_read, probe_int8, quantize, matmul, attention, top_k, gate };
constexpr int32_t kOps = 7;

struct Kernel {
    Op op;
    int32_t format;  // EI_FORMAT_... of a matmul or of attention's keys and values, quantizer() of a quantize,
                     // Activations of a gate, else 0
    int32_t isa;
    union {
        ProbeRead probe_read;
        ProbeInt8 probe_int8;
        Quantize quantize;
        Matmul matmul;
        Attention attention;
        TopK top_k;
        Gate gate;
    };

    constexpr Kernel(int32_t isa_, ProbeRead run) : op(Op::probe_read), format(0), isa(isa_), probe_read(run) {}
    constexpr Kernel(int32_t isa_, ProbeInt8 run) : op(Op::probe_int8), format(0), isa(isa_), probe_int8(run) {}
    constexpr Kernel(int32_t isa_, Quantize run) : op(Op::quantize), format(kQuantizeInt8), isa(isa_), quantize(run) {}
    constexpr Kernel(int32_t isa_, Quantizer format_, Quantize run) : op(Op::quantize), format(format_), isa(isa_), quantize(run) {}
    constexpr Kernel(int32_t isa_, int32_t format_, Matmul run) : op(Op::matmul), format(format_), isa(isa_), matmul(run) {}
    constexpr Kernel(int32_t isa_, int32_t format_, Attention run) : op(Op::attention), format(format_), isa(isa_), attention(run) {}
    constexpr Kernel(int32_t isa_, Activations format_, Gate run) : op(Op::gate), format(format_), isa(isa_), gate(run) {}
    constexpr Kernel(int32_t isa_, TopK run) : op(Op::top_k), format(0), isa(isa_), top_k(run) {}
};

// The kernel of exactly this ISA, or null.
const Kernel *find_kernel(Op op, int32_t format, int32_t isa);

// The kernel of this ISA or of the best that it builds on; null where this machine does not run `isa`, or there is none. Quick: it reads a
// table, which the first call makes.
const Kernel *choose_kernel(Op op, int32_t format, int32_t isa);

}  // namespace ei
#endif
