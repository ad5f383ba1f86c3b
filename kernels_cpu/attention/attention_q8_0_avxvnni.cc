#include "attention/attention.h"
#include "attention/blocks_avx2.h"

namespace ei {
namespace {

// VPDPBUSD: keys as q + 128, unsigned, and the query's offset takes it back.
struct MultiplyAvxVnni {
    static constexpr uint32_t kUnsign = 0x80808080;
    static EI_FORCE_INLINE __m256i begin(const QueryBlock &query) { return _mm256_set1_epi32(query.offset); }
    static EI_FORCE_INLINE __m256i add(__m256i sum, __m256i k, __m256i q) { return _mm256_dpbusd_avx_epi32(sum, k, q); }
};

using Blocks = Avx2Blocks<MultiplyAvxVnni>;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_avxvnni;
const Kernel ei_kernel_attention_q8_0_avxvnni(EI_ISA_AVXVNNI, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
