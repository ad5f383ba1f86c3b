#include "attention/attention.h"
#include "attention/kv_f16.h"
#include "attention/lanes_avx2.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_avx2;
const Kernel ei_kernel_attention_f16_avx2(EI_ISA_AVX2, EI_FORMAT_F16,
    attend<Avx2Lanes, HalfKeys<Avx2Lanes>, HalfValues<Avx2Lanes>>);

}  // namespace ei
