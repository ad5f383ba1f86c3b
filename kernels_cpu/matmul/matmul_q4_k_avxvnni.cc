#include "matmul/avxvnni.h"

namespace ei {
namespace {

struct Weights : NibbleWeights {
    using SuperBody = BodyQ4_K;
    EI_FORCE_INLINE void unpack(const BodyQ4_K &body, int s, int half) { NibbleWeights::unpack(body.qs[s], half); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q4_k_avxvnni;
const Kernel ei_kernel_matmul_q4_k_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q4_K, matmul_min256<Weights>);

}  // namespace ei
