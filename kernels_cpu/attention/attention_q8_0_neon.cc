#include "attention/attention.h"
#include "attention/blocks_neon.h"

namespace ei {
namespace {

using Blocks = NeonBlocks<MultiplyNeon>;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_neon;
const Kernel ei_kernel_attention_q8_0_neon(EI_ISA_NEON, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
