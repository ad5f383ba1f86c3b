#include "attention/attention.h"
#include "attention/blocks_avx2.h"

namespace ei {
namespace {

using Blocks = Avx2Blocks<MultiplyAvx2>;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_avx2;
const Kernel ei_kernel_attention_q8_0_avx2(EI_ISA_AVX2, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
