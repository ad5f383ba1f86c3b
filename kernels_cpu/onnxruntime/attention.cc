// edgeinfer::Attention: turns queries and keys by their positions, puts keys and values into the tokens' cells of a pool, and attends over
// the pool's first cells. The pool is one tensor for all layers, [n_layers, 2, n_cells, bytes of a cell], 0 keys and 1 values; it is an
// input that is written to, by each node in its own layer only, so that no tensor of the graph carries it from node to node.
#include <initializer_list>
#include <new>

#include "attention/split.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "onnxruntime/operators.h"
#include "onnxruntime/rope.h"

namespace ei {
namespace {

// The inputs of one run, checked.
struct Run {
    Tensor q, k, v, cos, sin, positions, cells, mask, pool;
    int64_t n_tokens, head_dim, half, cell_bytes, n_cells, n_kv;
    char *keys, *values;  // of this layer
};

class AttentionKernel {
  public:
    static OrtStatus *create(const OrtKernelInfo *info, AttentionKernel **kernel) {
        AttentionKernel made(info);
        EI_TRY(made.read(info));
        *kernel = new (std::nothrow) AttentionKernel(made);
        return *kernel ? nullptr : made.node_.fail("out of memory");
    }

    OrtStatus *compute(OrtKernelContext *context) const;

  private:
    explicit AttentionKernel(const OrtKernelInfo *info) : node_(info) {}
    OrtStatus *read(const OrtKernelInfo *info);
    OrtStatus *read_run(const OrtKernelContext *context, Run *run) const;
    OrtStatus *check_heads(Run *run) const;
    OrtStatus *check_tables(Run *run) const;
    OrtStatus *check_pool(Run *run) const;
    OrtStatus *check_tokens(const Run &run) const;
    OrtStatus *attend(const OrtKernelContext *context, const Run &run, const Split &split, const float *q, char *scratch, float *out) const;
    AttentionShape shape(const Run &run) const {
        return {run.head_dim, run.n_kv, run.n_tokens, n_kv_heads_, 1, static_cast<int>(n_heads_ / n_kv_heads_)};
    }

    Node node_;
    int64_t layer_ = 0, n_heads_ = 0, n_kv_heads_ = 0;
    int32_t kv_format_ = 0;
    float scale_ = 0.0f;
};

OrtStatus *AttentionKernel::read(const OrtKernelInfo *info) {
    int64_t format = 0;
    EI_TRY(node_.read(info, "layer", 0, 1 << 16, &layer_));
    EI_TRY(node_.read(info, "n_heads", 1, 1 << 16, &n_heads_));
    EI_TRY(node_.read(info, "n_kv_heads", 1, 1 << 16, &n_kv_heads_));
    EI_TRY(node_.read(info, "kv_format", 0, EI_FORMAT_BF16, &format));
    EI_TRY(node_.read(info, "scale", &scale_));
    if (n_heads_ % n_kv_heads_ != 0) return node_.fail("%lld heads cannot share %lld", wide(n_heads_), wide(n_kv_heads_));
    if (format != EI_FORMAT_F16 && format != EI_FORMAT_Q8_0) {
        return node_.fail("keys and values cannot be of format %lld", wide(format));
    }
    kv_format_ = static_cast<int32_t>(format);
    return nullptr;
}

OrtStatus *AttentionKernel::read_run(const OrtKernelContext *context, Run *run) const {
    EI_TRY(read_input(node_, context, 0, "q", ort::kFloat, &run->q));
    EI_TRY(read_input(node_, context, 1, "k", ort::kFloat, &run->k));
    EI_TRY(read_input(node_, context, 2, "v", ort::kFloat, &run->v));
    EI_TRY(read_input(node_, context, 3, "cos", ort::kFloat, &run->cos, false));
    EI_TRY(read_input(node_, context, 4, "sin", ort::kFloat, &run->sin, false));
    EI_TRY(read_input(node_, context, 5, "positions", ort::kInt64, &run->positions));
    EI_TRY(read_input(node_, context, 6, "cells", ort::kInt64, &run->cells));
    EI_TRY(read_input(node_, context, 7, "mask", ort::kHalf, &run->mask));
    EI_TRY(read_input(node_, context, 8, "pool", ort::kUint8, &run->pool));
    EI_TRY(check_heads(run));
    EI_TRY(check_tables(run));
    EI_TRY(check_pool(run));
    return check_tokens(*run);
}

OrtStatus *AttentionKernel::check_heads(Run *run) const {
    const int64_t width = run->q.n_dims ? run->q.last() : 0, multiple = kv_format_ == EI_FORMAT_F16 ? 16 : 32;
    run->head_dim = width / n_heads_;
    if (width < 1 || width % n_heads_ != 0 || run->head_dim % multiple != 0 || run->head_dim > 512) {
        return node_.fail("rows of q have %lld elements", wide(width));
    }
    run->n_tokens = run->q.count() / width;
    const int64_t kv_width = n_kv_heads_ * run->head_dim;
    for (const Tensor *each : {&run->k, &run->v}) {
        if (each->n_dims < 1 || each->last() != kv_width || each->count() != run->n_tokens * kv_width) {
            return node_.fail("k or v is not of %lld tokens with %lld heads of %lld", wide(run->n_tokens), wide(n_kv_heads_),
                              wide(run->head_dim));
        }
    }
    return nullptr;
}

OrtStatus *AttentionKernel::check_tables(Run *run) const {
    if ((run->cos.data == nullptr) != (run->sin.data == nullptr)) return node_.fail("cos without sin, or the other way round");
    run->half = 0;
    if (run->cos.data == nullptr) return nullptr;
    if (run->cos.n_dims != 2 || !run->cos.same_shape(run->sin)) return node_.fail("cos and sin are not tables of one shape");
    run->half = run->cos.last();
    return 2 * run->half > run->head_dim ? node_.fail("cos and sin are wider than half a head") : nullptr;
}

OrtStatus *AttentionKernel::check_pool(Run *run) const {
    const Format &format = *find_format(kv_format_);
    const int64_t *const shape = run->pool.shape;
    run->cell_bytes = n_kv_heads_ * run->head_dim / format.block_size * static_cast<int64_t>(format.block_bytes);
    if (run->pool.n_dims != 4 || shape[1] != 2 || shape[3] != run->cell_bytes || shape[0] <= layer_ || shape[2] < 1) {
        return node_.fail("the pool is not [more than %lld, 2, n_cells, %lld]", wide(layer_), wide(run->cell_bytes));
    }
    run->n_cells = shape[2];
    run->keys = run->pool.data + static_cast<size_t>(2 * layer_ * run->n_cells * run->cell_bytes);
    run->values = run->keys + static_cast<size_t>(run->n_cells * run->cell_bytes);
    return nullptr;
}

OrtStatus *AttentionKernel::check_tokens(const Run &run) const {
    if (run.positions.count() != run.n_tokens || run.cells.count() != run.n_tokens) {
        return node_.fail("positions or cells are not %lld", wide(run.n_tokens));
    }
    if (run.mask.n_dims != 2 || run.mask.shape[0] != run.n_tokens || run.mask.shape[1] > run.n_cells || run.mask.shape[1] > 1 << 18) {
        return node_.fail("the mask is not [%lld, at most %lld]", wide(run.n_tokens), wide(run.n_cells));
    }
    if (run.n_tokens > 0 && run.mask.shape[1] < 1) return node_.fail("the mask has no cells");
    for (int64_t i = 0; i < run.n_tokens; ++i) {
        const int64_t position = run.positions.as<int64_t>()[i], cell = run.cells.as<int64_t>()[i];
        if (cell < 0 || cell >= run.n_cells) return node_.fail("there is no cell %lld of %lld", wide(cell), wide(run.n_cells));
        if (run.half > 0 && (position < 0 || position >= run.cos.shape[0])) {
            return node_.fail("position %lld is not below %lld", wide(position), wide(run.cos.shape[0]));
        }
    }
    return nullptr;
}

// Turns token i's queries to `q`, its keys to `k`, and puts keys and values into its cell. False where a number cannot be stored.
bool store_token(const Run &run, int32_t kv_format, int64_t i, int64_t n_heads, int64_t n_kv_heads, int64_t dim, float *q, float *k) {
    const int64_t at = run.half == 0 ? 0 : run.positions.as<int64_t>()[i] * run.half, width = n_kv_heads * dim;
    const float *const cos = run.cos.as<float>() + at, *const sin = run.sin.as<float>() + at;
    const size_t cell = static_cast<size_t>(run.cells.as<int64_t>()[i] * run.cell_bytes);
    rotate(run.q.as<float>() + i * n_heads * dim, n_heads, dim, cos, sin, run.half, q);
    rotate(run.k.as<float>() + i * width, n_kv_heads, dim, cos, sin, run.half, k);
    return ei_encode(kv_format, k, 1, width, nullptr, run.keys + cell) == 1 &&
           ei_encode(kv_format, run.v.as<float>() + i * width, 1, width, nullptr, run.values + cell) == 1;
}

OrtStatus *AttentionKernel::attend(const OrtKernelContext *context, const Run &run, const Split &split, const float *q, char *scratch,
                                   float *out) const {
    const AttentionShape s = shape(run);
    const Format &format = *find_format(kv_format_);
    const size_t head = static_cast<size_t>(s.head_dim), kv_head = head / static_cast<size_t>(format.block_size) * format.block_bytes;
    const size_t cell = static_cast<size_t>(run.cell_bytes), row = static_cast<size_t>(n_heads_) * head * sizeof(float);
    const AttentionArgs args{reinterpret_cast<const char *>(q), run.keys, run.values, run.mask.data, reinterpret_cast<char *>(out),
                             row, head * sizeof(float), cell, kv_head, cell, kv_head, static_cast<size_t>(run.n_kv) * sizeof(uint16_t),
                             row, head * sizeof(float), run.n_kv, s.head_dim, s.n_group, scale_};
    const Kernel &kernel = *choose_kernel(Op::attention, kv_format_, ei_best_isa());
    const size_t unit_bytes = s.scratch_bytes(split);
    const int n_threads = node_.threads(run.n_tokens);
    if (split.parts == 1) {
        return share_out(context, n_threads, split.n_units, [&](int worker, int64_t i) {
            int64_t stream = 0;
            AttentionUnit unit = s.unit(split, i, &stream);
            unit.scratch = scratch + static_cast<size_t>(worker) * unit_bytes;
            kernel.attention(args, unit);
        });
    }
    for (int step = 0; step < EI_ATTENTION_STEPS; ++step) {
        EI_TRY(share_out(context, n_threads, split.n_units * split.parts, [&](int, int64_t i) {
            int64_t stream = 0;
            AttentionUnit unit = s.unit(split, i / split.parts, &stream);
            unit.scratch = scratch + static_cast<size_t>(i / split.parts) * unit_bytes;
            unit.part = static_cast<int32_t>(i % split.parts), unit.step = step;
            kernel.attention(args, unit);
        }));
    }
    return nullptr;
}

OrtStatus *AttentionKernel::compute(OrtKernelContext *context) const {
    Run run;
    EI_TRY(read_run(context, &run));
    float *out = nullptr;
    EI_TRY(make_output(context, 0, run.q.shape, run.q.n_dims, &out));
    if (run.n_tokens == 0 || out == nullptr) return nullptr;
    run.n_kv = run.mask.shape[1];
    const int64_t dim = run.head_dim, q_width = n_heads_ * dim, k_width = n_kv_heads_ * dim;
    const int n_threads = node_.threads(run.n_tokens);
    const AttentionShape s = shape(run);
    const Split split = s.best_split_for(run.mask.data, static_cast<size_t>(run.n_kv) * sizeof(uint16_t), n_threads);
    const size_t turned = round_up(static_cast<size_t>(run.n_tokens * q_width) * sizeof(float), 64);
    const size_t keys = round_up(static_cast<size_t>(n_threads * k_width) * sizeof(float), 64);
    char *const memory = workspace(turned + keys + s.work_bytes(split, n_threads));
    if (memory == nullptr) return node_.fail("out of memory");
    float *const q = reinterpret_cast<float *>(memory), *const k = reinterpret_cast<float *>(memory + turned);
    std::atomic<bool> stored{true};
    constexpr int64_t kStep = 8;  // tokens that a thread takes at once
    EI_TRY(share_out(context, n_threads, (run.n_tokens + kStep - 1) / kStep, [&](int worker, int64_t step) {
        for (int64_t i = step * kStep; i < std::min(run.n_tokens, (step + 1) * kStep); ++i) {
            if (!store_token(run, kv_format_, i, n_heads_, n_kv_heads_, dim, q + i * q_width, k + worker * k_width)) stored = false;
        }
    }));
    if (!stored) return node_.fail("a key or a value is not a number that its cell can hold");
    return attend(context, run, split, q, memory + turned + keys, out);
}

}  // namespace

const Operator *attention_operator() {
    static const Operator op = [] {
        Operator op = make_operator<AttentionKernel>("Attention");
        op.n_inputs = 9, op.n_outputs = 1;
        for (size_t i = 0; i < 3; ++i) op.inputs[i] = {ort::kFloat, ort::kRequired};
        op.inputs[3] = op.inputs[4] = {ort::kFloat, ort::kOptional};
        op.inputs[5] = op.inputs[6] = {ort::kInt64, ort::kRequired};
        op.inputs[7] = {ort::kHalf, ort::kRequired}, op.inputs[8] = {ort::kUint8, ort::kRequired};
        op.outputs[0] = {ort::kFloat, ort::kRequired};
        return op;
    }();
    return &op;
}

}  // namespace ei
