#include "matmul/avx2.h"
#include "matmul/iq4_nl.h"

namespace ei {
namespace {

struct Weights : SignedWeights {
    using Body = Nibbles;
    EI_FORCE_INLINE void unpack(const Body &body, int half) {
        const __m128i values = _mm_xor_si128(_mm_load_si128(reinterpret_cast<const __m128i *>(kIq4NlValues)), _mm_set1_epi8(-128));
        const __m256i table = _mm256_broadcastsi128_si256(values);
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            const __m256i v = load(body.qs[j] + 32 * half);
            w[2 * j] = _mm256_shuffle_epi8(table, low_nibbles(v));
            w[2 * j + 1] = _mm256_shuffle_epi8(table, high_nibbles(v));
        }
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_iq4_nl_avx2;
const Kernel ei_kernel_matmul_iq4_nl_avx2(EI_ISA_AVX2, EI_FORMAT_IQ4_NL, matmul_zero32<Weights>);

}  // namespace ei
