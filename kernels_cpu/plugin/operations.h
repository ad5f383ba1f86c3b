// The operations that the plug-in computes inside ggml's thread pool: which it takes, how much work memory they need, and how they run.
#ifndef EI_PLUGIN_OPERATIONS_H
#define EI_PLUGIN_OPERATIONS_H

#include <atomic>

#include "plugin/library.h"

namespace ei {

// A weight that we pack: a supported format, whole blocks, one matrix (MUL_MAT) or one a expert (MUL_MAT_ID).
bool can_pack(const ggml::Tensor *weight);
// Bytes of the weight when packed.
size_t packed_bytes(const ggml::Tensor *weight);
// Pack the rows at `data`, as they lie in the file, to weight->data; on all cores.
void pack_weight(const ggml::Tensor *weight, const void *data);

// Products with a packed weight; whether an op's other operands suit us. n_terms of x: see matmul/terms.h.
bool can_multiply(const ggml::Tensor *op);
size_t multiply_work_bytes(const ggml::Tensor *op, int n_terms, int n_threads);
void multiply(const ggml::ComputeParams &params, const ggml::Tensor *op, int n_terms);

bool can_multiply_experts(const ggml::Tensor *op);
size_t multiply_experts_work_bytes(const ggml::Tensor *op, int n_terms, int n_threads);
void multiply_experts(const ggml::ComputeParams &params, const ggml::Tensor *op, int n_terms);

// Attention over keys and values, both in half precision or both in q8_0, with a mask; sinks, soft caps and ALiBi stay with ggml.
bool can_attend(const ggml::Tensor *op);
size_t attend_work_bytes(const ggml::Tensor *op, int n_threads);
void attend(const ggml::ComputeParams &params, const ggml::Tensor *op);

// How often each ran, for the self-test.
struct Counters {
    std::atomic<int64_t> packed, multiplied, attended;
};
extern Counters g_counters;

}  // namespace ei
#endif
