#include "matmul/iq4_nl.h"
#include "matmul/avx512vnni.h"

namespace ei {
namespace {

struct Unpack {
    using Body = Nibbles;
    static EI_FORCE_INLINE void unpack(const Body &body, __m512i (&w)[8]) {
        unpack_nibbles(body.qs, w);
        const __m512i values = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i *>(kIq4NlValues)));
        EI_UNROLL
        for (int g = 0; g < 8; ++g) w[g] = _mm512_shuffle_epi8(values, w[g]);
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_iq4_nl_avx512vnni;
const Kernel ei_kernel_matmul_iq4_nl_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_IQ4_NL, matmul_zero32<Unpack>);

}  // namespace ei
