#include "attention/attention.h"
#include "attention/kv_f16.h"
#include "attention/lanes_avx512.h"

namespace ei {

extern const Kernel ei_kernel_attention_f16_avx512vnni;
const Kernel ei_kernel_attention_f16_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_F16,
    attend<Avx512Lanes, HalfKeys<Avx512Lanes>, HalfValues<Avx512Lanes>>);

}  // namespace ei
