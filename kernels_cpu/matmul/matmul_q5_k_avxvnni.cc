#include "matmul/avxvnni.h"

namespace ei {
namespace {

struct Weights : FiveBitWeights {
    using SuperBody = BodyQ5_K;
    EI_FORCE_INLINE void unpack(const BodyQ5_K &body, int s, int half) { FiveBitWeights::unpack(body.qs[s], body.qh[s], half); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q5_k_avxvnni;
const Kernel ei_kernel_matmul_q5_k_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q5_K, matmul_min256<Weights>);

}  // namespace ei
