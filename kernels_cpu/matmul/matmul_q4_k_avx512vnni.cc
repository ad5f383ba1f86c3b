#include "matmul/avx512vnni.h"

namespace ei {
namespace {

struct Unpack {
    using Body = BodyQ4_K;
    static constexpr int kStep = 256;
    static EI_FORCE_INLINE void unpack(const Body &body, int s, __m512i (&w)[8]) { unpack_nibbles(body.qs[s], w); }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q4_k_avx512vnni;
const Kernel ei_kernel_matmul_q4_k_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_Q4_K, matmul_min256<Unpack>);

}  // namespace ei
