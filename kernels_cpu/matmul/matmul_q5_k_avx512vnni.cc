#include "matmul/avx512vnni.h"

namespace ei {
namespace {

struct Unpack {
    using Body = BodyQ5_K;
    static constexpr int kStep = 320;
    static EI_FORCE_INLINE void unpack(const Body &body, int s, __m512i (&w)[8]) {
        unpack_nibbles(body.qs[s], w);
        add_fifth_bits(body.qh[s], w);
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q5_k_avx512vnni;
const Kernel ei_kernel_matmul_q5_k_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q5_K, matmul_min256<Unpack>);

}  // namespace ei
