// quantize_q8_scalar.cc with 128 bits, to the same bits: maxima of magnitudes as integers, sums of int8 exact, everything else element by
// element in the same operations.
#include <arm_neon.h>

#include <cstring>

#include "core/compiler.h"
#include "core/half.h"
#include "core/kernel.h"

namespace ei {
namespace {

// kN elements -> int8 in q and the sums of every 16 of them. Returns d.
template <int kN>
EI_INLINE float quantize_column(const float *x, int8_t *q, int32_t (&sums)[kN / 16]) {
    const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
    uint32x4_t largest[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    for (int i = 0; i < kN; i += 16) {
        EI_UNROLL
        for (int j = 0; j < 4; ++j) {
            largest[j] = vmaxq_u32(largest[j], vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i + 4 * j)), magnitude));
        }
    }
    const uint32_t bits = vmaxvq_u32(vmaxq_u32(vmaxq_u32(largest[0], largest[1]), vmaxq_u32(largest[2], largest[3])));
    const float max = bits_float(bits);
    float inverse = 0.0f, d = 0.0f;
    if (bits >= 0x7f800000) {
        d = bits_float(0x7fc00000);
    } else if (max >= kTinyActivation) {
        inverse = 127.0f / max;
        d = max / 127.0f;
    }
    // Infinity times 0 is NaN, which converts to 0 here.
    const float32x4_t factor = vdupq_n_f32(inverse);
    for (int i = 0; i < kN; i += 16) {
        int16x4_t words[4];
        EI_UNROLL
        for (int j = 0; j < 4; ++j) words[j] = vmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(x + i + 4 * j), factor)));
        const int8x16_t bytes =
            vcombine_s8(vmovn_s16(vcombine_s16(words[0], words[1])), vmovn_s16(vcombine_s16(words[2], words[3])));
        vst1q_s8(q + i, bytes);
        sums[i / 16] = vaddlvq_s8(bytes);
    }
    return d;
}

template <class Block>
EI_INLINE void scatter(const int8_t *q, int n, int c, Block &block) {
    for (int g = 0; g < n / 4; ++g) std::memcpy(block.q[g][c], q + 4 * g, 4);
}

EI_INLINE int32_t pack_pair(int32_t low, int32_t high) {
    return static_cast<int32_t>((static_cast<uint32_t>(low) & 0xffff) | static_cast<uint32_t>(high) << 16);
}

void quantize_32(const QuantizeArgs &args) {
    // Both blocks of 32 have the same shape; only the last row differs.
    ActivationZero32 &block = *static_cast<ActivationZero32 *>(args.block);
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[32];
        int32_t sums[2];
        block.d[c] = quantize_column<32>(args.columns[c], q, sums);
        scatter(q, 32, c, block);
        const int32_t sum = sums[0] + sums[1];
        if (args.activation == Activation::zero32) {
            block.offset[c] = -args.zero_point * sum;
        } else {
            static_cast<ActivationMin32 *>(args.block)->sum[c] = block.d[c] * static_cast<float>(sum);
        }
    }
}

void quantize_256(const QuantizeArgs &args) {
    for (int c = 0; c < args.n_columns; ++c) {
        int8_t q[256];
        int32_t sum[16];
        const float d = quantize_column<256>(args.columns[c], q, sum);
        if (args.activation == Activation::min256) {
            ActivationMin256 &block = *static_cast<ActivationMin256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int p = 0; p < 4; ++p) block.pair[p][c] = pack_pair(sum[4 * p] + sum[4 * p + 1], sum[4 * p + 2] + sum[4 * p + 3]);
        } else {
            ActivationZero256 &block = *static_cast<ActivationZero256 *>(args.block);
            scatter(q, 256, c, block);
            block.d[c] = d;
            for (int s = 0; s < 16; ++s) block.offset[s][c] = -args.zero_point * sum[s];
            for (int p = 0; p < 8; ++p) block.pair[p][c] = pack_pair(sum[2 * p], sum[2 * p + 1]);
        }
    }
}

void quantize(const QuantizeArgs &args) {
    if (args.activation == Activation::zero32 || args.activation == Activation::min32) {
        quantize_32(args);
    } else {
        quantize_256(args);
    }
}

}  // namespace

extern const Kernel ei_kernel_quantize_q8_neon;
const Kernel ei_kernel_quantize_q8_neon(EI_ISA_NEON, quantize);

}  // namespace ei
