// The C ABI of attention: which kernel, and how much scratch a unit needs.
#include "core/kernel.h"

extern "C" {

// The sum of what carve_scratch in attention.h hands out, rounded up generously.
size_t ei_attention_scratch_bytes(int64_t n_kv, int64_t head_dim, int32_t n_tokens, int32_t n_heads) {
    const size_t n = ei::round_up(static_cast<size_t>(n_kv), 64) + 64, d = static_cast<size_t>(head_dim);
    const size_t tokens = static_cast<size_t>(n_tokens), rows = tokens * static_cast<size_t>(n_heads);
    return n * 8 + tokens * n / 8 + rows * (2 * d + 2 + n) * 4 + 64 * d * 4 + tokens * 64 * 4 + 16 * 64;
}

int32_t ei_attention_isa(int32_t isa) {
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::attention, 0, isa);
    return kernel ? kernel->isa : -1;
}

void ei_attention(int32_t isa, const ei_attention_args *args, const ei_attention_unit *unit) {
    ei::choose_kernel(ei::Op::attention, 0, isa)->attention(*args, *unit);
}

}  // extern "C"
