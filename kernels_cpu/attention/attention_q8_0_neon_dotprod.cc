#include "attention/attention.h"
#include "attention/blocks_neon.h"

namespace ei {
namespace {

// SDOT: four products a lane.
struct MultiplyDotprod {
    template <int R, class Ints>
    static EI_FORCE_INLINE void dots(const char *q, size_t stride, const char *k, Ints (&sums)[R][1]) {
        EI_UNROLL
        for (int r = 0; r < R; ++r) {
            EI_UNROLL
            for (int i = 0; i < 4; ++i) sums[r][0].x[i] = vdupq_n_s32(0);
        }
        for (int group = 0; group < 8; ++group) {
            int8x16_t key[4];
            EI_UNROLL
            for (int i = 0; i < 4; ++i) key[i] = vld1q_s8(reinterpret_cast<const int8_t *>(k + group * kGroupBytes + 16 * i));
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                const int8x16_t four = four_of(q + r * stride, group);
                EI_UNROLL
                for (int i = 0; i < 4; ++i) sums[r][0].x[i] = vdotq_s32(sums[r][0].x[i], key[i], four);
            }
        }
    }
};

using Blocks = NeonBlocks<MultiplyDotprod>;
using Lanes = Blocks::L;

}  // namespace

extern const Kernel ei_kernel_attention_q8_0_neon_dotprod;
const Kernel ei_kernel_attention_q8_0_neon_dotprod(EI_ISA_NEON_DOTPROD, EI_FORMAT_Q8_0,
    attend<Lanes, BlockKeys<Lanes, Blocks>, BlockValues<Lanes, Blocks>>);

}  // namespace ei
