#include "attention/attention.h"
#include "attention/blocks_scalar.h"

namespace ei {
namespace {

using Blocks = ScalarBlocks;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_scalar;
const Kernel ei_kernel_attention_q8_0_scalar(EI_ISA_SCALAR, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
