#include "matmul/avx2.h"

namespace ei {
namespace {

struct Weights : NibbleWeights {
    using SuperBody = BodyQ4_K;
    EI_FORCE_INLINE void unpack(const BodyQ4_K &body, int s, int half) { NibbleWeights::unpack(body.qs[s], half); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q4_k_avx2;
const Kernel ei_kernel_matmul_q4_k_avx2(EI_ISA_AVX2, EI_FORMAT_Q4_K, matmul_min256<Weights>);

}  // namespace ei
