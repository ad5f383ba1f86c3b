// The AVX-VNNI kernels on a machine that has VPDPBUSD in the encoding of AVX-512 only: compiled from the same files with
// avxvnni_by_evex.h before them, against the scalar reference, bit for bit. test_matmul tests them as they are where they run.
#include "matmul_cases.h"

namespace ei {

#define EI_KERNEL(format) extern const Kernel ei_kernel_matmul_##format##_evex;
#include "evex_list.inc"
#undef EI_KERNEL

}  // namespace ei

int main() {
    constexpr int kSkipped = 77;
    if (!(ei_capabilities() & ei::isa_bit(EI_ISA_AVX512VNNI))) return kSkipped;
    const ei::Kernel *const kernels[] = {
#define EI_KERNEL(format) &ei::ei_kernel_matmul_##format##_evex,
#include "evex_list.inc"
#undef EI_KERNEL
    };
    Random random(1);
    for (const ei::Kernel *kernel : kernels) {
        cases::for_each_case(random, *ei::find_format(kernel->format), [&](cases::Case c, cases::Values values) {
            cases::check_same("avxvnni", c, values, cases::product(*kernel, c), cases::product(EI_ISA_SCALAR, c));
        });
    }
    return check::result();
}
