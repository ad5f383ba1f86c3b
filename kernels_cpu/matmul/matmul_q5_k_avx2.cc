#include "matmul/avx2.h"

namespace ei {
namespace {

struct Weights : FiveBitWeights {
    using SuperBody = BodyQ5_K;
    EI_FORCE_INLINE void unpack(const BodyQ5_K &body, int s, int half) { FiveBitWeights::unpack(body.qs[s], body.qh[s], half); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q5_k_avx2;
const Kernel ei_kernel_matmul_q5_k_avx2(EI_ISA_AVX2, EI_FORMAT_Q5_K, matmul_min256<Weights>);

}  // namespace ei
