#include "check.h"
#include "core/isa.h"
#include "core/kernel.h"

#include <cstring>
#include <initializer_list>

// An instruction set without kernels of its own would be tested against scalar by running scalar.
void check_kernels(int32_t isa) {
    for (int32_t format = 0; format < 64; ++format) {
        if (ei::find_format(format) == nullptr) continue;
        const ei::Kernel *kernel = ei::choose_kernel(ei::Op::matmul, format, isa);
        CHECK(kernel != nullptr && kernel->isa != EI_ISA_SCALAR, "%s has no product for format %d", ei_isa_name(isa), format);
    }
    const ei::Kernel *quantize = ei::choose_kernel(ei::Op::quantize, ei::kQuantizeInt8, isa);
    CHECK(quantize != nullptr && quantize->isa != EI_ISA_SCALAR, "%s does not quantize", ei_isa_name(isa));
    for (const int32_t format : {EI_FORMAT_F16, EI_FORMAT_Q8_0}) {
        const int32_t attention = ei_attention_isa(format, isa);
        CHECK(attention > EI_ISA_SCALAR, "%s has no attention over format %d", ei_isa_name(isa), format);
    }
    CHECK(ei_attention_isa(EI_FORMAT_Q4_0, isa) == -1, "%s has attention over Q4_0", ei_isa_name(isa));
}

// Whatever is asked for, the best kernel of the chain answers, or none.
void check_choices() {
    for (int32_t op = 0; op < ei::kOps; ++op) {
        for (int32_t format = -1; format < 64; ++format) {
            for (int32_t isa = -1; isa <= EI_ISA_COUNT; ++isa) {
                const ei::Kernel *best = nullptr;
                const bool runs = isa >= 0 && isa < EI_ISA_COUNT && (ei_capabilities() & ei::isa_bit(isa));
                for (int32_t below = isa; runs && best == nullptr && below >= 0; --below) {
                    if (ei::isa_chain(isa) & ei::isa_bit(below)) best = ei::find_kernel(static_cast<ei::Op>(op), format, below);
                }
                CHECK(ei::choose_kernel(static_cast<ei::Op>(op), format, isa) == best, "op %d, format %d, isa %d", op, format, isa);
            }
        }
    }
}

// Prints what this machine runs, for whoever started it on a particular one.
int main() {
    const uint32_t all = ei_capabilities();
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        if (all & ei::isa_bit(isa)) std::printf("%s\n", ei_isa_name(isa));
    }
    CHECK(all & ei::isa_bit(EI_ISA_SCALAR), "mask %x", all);
    check_choices();
    CHECK(ei_isa_name(-1) == nullptr && ei_isa_name(EI_ISA_COUNT) == nullptr, "names out of range");
    CHECK(ei_force_isa("sse9") == EI_UNKNOWN, "an ISA that is none");
    for (int32_t isa = 0; isa < EI_ISA_COUNT; ++isa) {
        const char *name = ei_isa_name(isa);
        if (all & ei::isa_bit(isa)) {
            if (isa != EI_ISA_SCALAR) check_kernels(isa);
            CHECK((ei::isa_chain(isa) & ~all) == 0, "%s is here without what it builds on", name);
            CHECK(ei_force_isa(name) == EI_OK && ei_best_isa() == isa, "forced %s, got %s", name, ei_isa_name(ei_best_isa()));
        } else {
            CHECK(ei_force_isa(nullptr) == EI_OK && ei_force_isa(name) == EI_UNSUPPORTED, "%s is not here", name);
            CHECK(ei_enabled() == all, "a refused ISA changed the choice");
        }
    }
    CHECK(ei_force_isa(nullptr) == EI_OK && ei_enabled() == all, "lifted");
    int32_t flag = 0;
    CHECK(!ei_flag(&flag), "lowered");
    flag = 1;
    CHECK(ei_flag(&flag), "raised");
    return check::result();
}
