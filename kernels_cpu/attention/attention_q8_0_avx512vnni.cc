#include "attention/attention.h"
#include "attention/blocks_avx512vnni.h"

namespace ei {
namespace {

using Blocks = Avx512VnniBlocks;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_avx512vnni;
const Kernel ei_kernel_attention_q8_0_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
