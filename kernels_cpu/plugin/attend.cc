// FLASH_ATTN_EXT over a cache of half precision or of q8_0.
#include <algorithm>
#include <cstring>

#include "attention/split.h"
#include "core/formats.h"
#include "core/isa.h"
#include "core/kernel.h"
#include "plugin/operations.h"

namespace ei {
namespace {

AttentionShape shape_of(const ggml::Tensor *op) {
    const ggml::Tensor *q = op->src[0], *k = op->src[1];
    return {k->ne[0], k->ne[1], q->ne[1], k->ne[2], q->ne[3], static_cast<int>(q->ne[2] / k->ne[2])};
}

// The operands, for units of any stream.
class Operands {
  public:
    explicit Operands(const ggml::Tensor *op) : op_(op), shape_(shape_of(op)) {
        const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
        args_.q_token_stride = q->nb[1], args_.q_head_stride = q->nb[2];
        args_.k_cell_stride = k->nb[1], args_.k_head_stride = k->nb[2], args_.v_cell_stride = v->nb[1], args_.v_head_stride = v->nb[2];
        args_.mask_token_stride = mask->nb[1], args_.out_head_stride = op->nb[1], args_.out_token_stride = op->nb[2];
        args_.n_kv = shape_.n_kv, args_.head_dim = shape_.head_dim, args_.n_group = shape_.n_group;
        std::memcpy(&args_.scale, op->op_params, sizeof args_.scale);
    }

    void run(const Kernel &kernel, const Split &split, int64_t index, int part, int step, void *scratch) {
        const ggml::Tensor *q = op_->src[0], *k = op_->src[1], *v = op_->src[2], *mask = op_->src[3];
        int64_t at = 0;
        AttentionUnit unit = shape_.unit(split, index, &at);
        const size_t stream = static_cast<size_t>(at);
        args_.q = static_cast<const char *>(q->data) + stream * q->nb[3];
        args_.k = static_cast<const char *>(k->data) + stream * k->nb[3];
        args_.v = static_cast<const char *>(v->data) + stream * v->nb[3];
        args_.mask = static_cast<const char *>(mask->data) + (mask->ne[3] == 1 ? 0 : stream * mask->nb[3]);
        args_.out = static_cast<char *>(op_->data) + stream * op_->nb[3];
        unit.scratch = scratch, unit.part = part, unit.step = step;
        kernel.attention(args_, unit);
    }

  private:
    const ggml::Tensor *op_;
    AttentionShape shape_;
    AttentionArgs args_{};
};

}  // namespace

bool can_attend(const ggml::Tensor *op) {
    if (op->op != ggml::kFlashAttention) return false;
    const ggml::Tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float parameters[3];  // scale, ALiBi's slope, soft cap
    std::memcpy(parameters, op->op_params, sizeof parameters);
    if (mask == nullptr || op->src[4] != nullptr || parameters[1] != 0.0f || parameters[2] != 0.0f) return false;
    if (q->type != ggml::kF32 || mask->type != ggml::kF16 || q->nb[0] != 4 || mask->nb[0] != 2 || op->nb[0] != 4) return false;
    // Both of one kind; ggml keeps the mixtures.
    const bool half = k->type == ggml::kF16, blocks = k->type == ggml::kQ8_0;
    const size_t element = half ? sizeof(uint16_t) : sizeof(BlockQ8_0);
    if (!(half || blocks) || k->type != v->type || k->nb[0] != element || v->nb[0] != element) return false;
    if (k->ne[0] != v->ne[0] || k->ne[0] % (half ? 16 : 32) != 0 || k->ne[0] > 512) return false;
    if (k->ne[1] != v->ne[1] || k->ne[1] > (1 << 18)) return false;
    if (k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0 || k->ne[2] != v->ne[2] || mask->ne[2] != 1 || mask->ne[0] < k->ne[1]) return false;
    return k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] && (mask->ne[3] == q->ne[3] || mask->ne[3] == 1) && mask->ne[1] >= q->ne[1];
}

size_t attend_work_bytes(const ggml::Tensor *op, int n_threads) {
    const AttentionShape shape = shape_of(op);
    size_t most = 0;  // whatever the masks will turn out to be
    for (const Split &split : {shape.best_split(n_threads), shape.best_split_apart(n_threads), shape.finest_split()}) {
        most = std::max(most, shape.work_bytes(split, n_threads));
    }
    return most + 64;
}

void attend(const ggml::ComputeParams &params, const ggml::Tensor *op) {
    const AttentionShape shape = shape_of(op);
    const ggml::Tensor *mask = op->src[3];
    Split split = shape.best_split_for(static_cast<const char *>(mask->data), mask->nb[1], params.nth);
    // ggml may run with fewer threads than it planned for; what is then best may need more memory than there is.
    if (shape.work_bytes(split, params.nth) + 64 > params.wsize) split = shape.finest_split();
    const size_t scratch_bytes = shape.scratch_bytes(split);
    char *const scratch = reinterpret_cast<char *>(round_up(reinterpret_cast<size_t>(params.wdata), 64));
    const Kernel &kernel = *choose_kernel(Op::attention, op->src[1]->type, ei_best_isa());
    Operands operands(op);
    if (split.parts == 1) {
        char *const own = scratch + static_cast<size_t>(params.ith) * scratch_bytes;
        for (int64_t i = params.ith; i < split.n_units; i += params.nth) operands.run(kernel, split, i, 0, 0, own);
    } else {
        for (int step = 0; step < EI_ATTENTION_STEPS; ++step) {
            if (step > 0) g_ggml.ggml_barrier(params.threadpool);
            for (int64_t i = params.ith; i < split.n_units * split.parts; i += params.nth) {
                const int64_t unit = i / split.parts;
                char *const own = scratch + static_cast<size_t>(unit) * scratch_bytes;
                operands.run(kernel, split, unit, static_cast<int>(i % split.parts), step, own);
            }
        }
    }
    if (params.ith == 0) g_counters.attended.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace ei
