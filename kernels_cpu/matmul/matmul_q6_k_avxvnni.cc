#include "matmul/avx256_q6_k.h"
#include "matmul/avxvnni.h"

namespace ei {
namespace {

struct Multiply : ScaleOf32Bits {
    static EI_FORCE_INLINE __m256i scaled_dot(const __m256i (&w)[4], const int8_t (*q)[kGroupColumns][4], int c, __m256i scale) {
        __m256i sum = _mm256_setzero_si256();
        EI_UNROLL
        for (int g = 0; g < 4; ++g) sum = _mm256_dpbusd_avx_epi32(sum, w[g], broadcast(q[g][c]));
        return _mm256_mullo_epi32(sum, scale);
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q6_k_avxvnni;
const Kernel ei_kernel_matmul_q6_k_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q6_K, matmul_zero256<Multiply>);

}  // namespace ei
