#include "matmul/avx256_q6_k.h"
#include "matmul/avx2.h"

namespace ei {
namespace {

// Two products of at most 2 * 63 * 127 fit 16 bits.
struct Multiply : ScaleOf16Bits {
    static EI_FORCE_INLINE __m256i scaled_dot(const __m256i (&w)[4], const int8_t (*q)[kGroupColumns][4], int c, __m256i scale) {
        const __m256i p0 = _mm256_maddubs_epi16(w[0], broadcast(q[0][c])), p1 = _mm256_maddubs_epi16(w[1], broadcast(q[1][c]));
        const __m256i p2 = _mm256_maddubs_epi16(w[2], broadcast(q[2][c])), p3 = _mm256_maddubs_epi16(w[3], broadcast(q[3][c]));
        return _mm256_add_epi32(_mm256_madd_epi16(_mm256_add_epi16(p0, p1), scale), _mm256_madd_epi16(_mm256_add_epi16(p2, p3), scale));
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_q6_k_avx2;
const Kernel ei_kernel_matmul_q6_k_avx2(EI_ISA_AVX2, EI_FORMAT_Q6_K, matmul_zero256<Multiply>);

}  // namespace ei
