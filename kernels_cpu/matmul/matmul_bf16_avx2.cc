#include "matmul/floats_avx2.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE __m256 widen(const Body &body, int half) {
        const __m128i upper = _mm_loadu_si128(reinterpret_cast<const __m128i *>(body.x + 8 * half));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(upper), 16));
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_bf16_avx2;
const Kernel ei_kernel_matmul_bf16_avx2(EI_ISA_AVX2, EI_FORMAT_BF16, matmul_floats<Weights>);

}  // namespace ei
