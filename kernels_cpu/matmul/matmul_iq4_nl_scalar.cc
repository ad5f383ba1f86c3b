#include "matmul/iq4_nl.h"
#include "matmul/scalar.h"

namespace ei {
namespace {

struct Values {
    static void map(uint8_t *quants) {
        for (int i = 0; i < 32; ++i) quants[i] = kIq4NlValues[quants[i]];
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_iq4_nl_scalar;
const Kernel ei_kernel_matmul_iq4_nl_scalar(EI_ISA_SCALAR, EI_FORMAT_IQ4_NL, matmul_zero32<EI_FORMAT_IQ4_NL, Values>);

}  // namespace ei
