#include "matmul/avxvnni.h"
#include "matmul/iq4_nl.h"

namespace ei {
namespace {

struct UnpackedValues : UnpackedNibbles {
    EI_FORCE_INLINE void unpack(const Body &body, int half) {
        UnpackedNibbles::unpack(body, half);
        const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(kIq4NlValues)));
        EI_UNROLL
        for (int g = 0; g < 8; ++g) w[g] = _mm256_shuffle_epi8(table, w[g]);
    }
};

}  // namespace

extern const Kernel ei_kernel_matmul_iq4_nl_avxvnni;
const Kernel ei_kernel_matmul_iq4_nl_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_IQ4_NL, matmul_zero32<VnniWeights<UnpackedValues>>);

}  // namespace ei
