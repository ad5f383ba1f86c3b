// The C ABI of attention: which kernel, and how much scratch a unit needs.
#include "attention/parts.h"

extern "C" {

size_t ei_attention_scratch_bytes(int64_t n_kv, int64_t head_dim, int32_t n_tokens, int32_t n_heads, int32_t n_parts) {
    return static_cast<size_t>(n_parts) * ei::part_bytes(ei::part_cells(n_kv, n_parts), head_dim, n_tokens, n_heads);
}

int32_t ei_attention_isa(int32_t format, int32_t isa) {
    const ei::Kernel *kernel = ei::choose_kernel(ei::Op::attention, format, isa);
    return kernel ? kernel->isa : -1;
}

void ei_attention(int32_t isa, int32_t format, const ei_attention_args *args, const ei_attention_unit *unit) {
    ei::choose_kernel(ei::Op::attention, format, isa)->attention(*args, *unit);
}

}  // extern "C"
