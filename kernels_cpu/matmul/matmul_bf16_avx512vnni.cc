#include "matmul/floats_avx512vnni.h"

namespace ei {
namespace {

struct Weights {
    using Body = BodyF16;
    static EI_FORCE_INLINE __m512 widen(const Body &body) {
        const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(body.x));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_bf16_avx512vnni;
const Kernel ei_kernel_matmul_bf16_avx512vnni(EI_ISA_AVX512VNNI, EI_FORMAT_BF16, matmul_floats<Weights>);

}  // namespace ei
