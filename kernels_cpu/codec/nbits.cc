// Blocks of GGUF formats from the quants of ONNX Runtime's MatMulNBits: 4 bits with neighbours in a byte, the earlier in the low half, or a
// byte each around 128. Scales come as they shall lie in the block; finding them is not done here.
#include <cstring>

#include "core/formats.h"
#include "edgeinfer_kernels.h"

namespace ei {
namespace {

// Two runs of `n` quants, of 4 bits as they come, to the low and high halves of n bytes.
void low_and_high(const uint8_t *first, const uint8_t *second, int n, uint8_t *out) {
    for (int i = 0; i < n / 2; ++i) {
        out[2 * i] = static_cast<uint8_t>((first[i] & 15) | second[i] << 4);
        out[2 * i + 1] = static_cast<uint8_t>(first[i] >> 4 | (second[i] & 0xf0));
    }
}

// Bytes around 128 as quants from 0 on, whose middle is `middle`; false where one is above `most`.
bool from_bytes(const uint8_t *bytes, int n, int middle, int most, uint8_t *q) {
    uint8_t above = 0;
    for (int i = 0; i < n; ++i) {
        q[i] = static_cast<uint8_t>(bytes[i] + middle - 128);
        above |= static_cast<uint8_t>(q[i] > most);
    }
    return above == 0;
}

// The fifth bits of 32 quants.
void fifth_bits(const uint8_t *q, uint8_t *qh) {
    for (int i = 0; i < 4; ++i) {
        unsigned bits = 0;
        for (int k = 0; k < 8; ++k) bits |= static_cast<unsigned>(q[8 * i + k] >> 4 & 1) << k;
        qh[i] = static_cast<uint8_t>(bits);
    }
}

void low_bits(const uint8_t *q, int n, uint8_t *out) {
    for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>((q[i] & 15) | q[i + n] << 4);
}

bool build(const uint8_t *from, BlockQ4_0 &block) { return low_and_high(from, from + 8, 16, block.qs), true; }
bool build(const uint8_t *from, BlockQ4_1 &block) { return low_and_high(from, from + 8, 16, block.qs), true; }

template <class Block>
bool build_five(const uint8_t *from, Block &block) {
    uint8_t q[32];
    const bool right = from_bytes(from, 32, 16, 31, q);
    low_bits(q, 16, block.qs), fifth_bits(q, block.qh);
    return right;
}
bool build(const uint8_t *from, BlockQ5_0 &block) { return build_five(from, block); }
bool build(const uint8_t *from, BlockQ5_1 &block) { return build_five(from, block); }

bool build(const uint8_t *from, BlockQ8_0 &block) {
    for (int i = 0; i < 32; ++i) block.qs[i] = static_cast<int8_t>(from[i] - 128);
    return true;
}

bool build(const uint8_t *from, BlockQ4_K &block) {
    for (int pair = 0; pair < 4; ++pair) low_and_high(from + 32 * pair, from + 32 * pair + 16, 32, block.qs + 32 * pair);
    return true;
}

bool build(const uint8_t *from, BlockQ5_K &block) {
    uint8_t q[256];
    const bool right = from_bytes(from, 256, 16, 31, q);
    std::memset(block.qh, 0, sizeof block.qh);
    for (int s = 0; s < 8; ++s) {
        for (int i = 0; i < 32; ++i) block.qh[i] = static_cast<uint8_t>(block.qh[i] | (q[32 * s + i] >> 4) << s);
        if (s % 2 == 0) low_bits(q + 32 * s, 32, block.qs + 16 * s);
    }
    return right;
}

bool build(const uint8_t *from, BlockQ6_K &block) {
    uint8_t q[256];
    const bool right = from_bytes(from, 256, 32, 63, q);
    for (int half = 0; half < 2; ++half) {
        const uint8_t *const part = q + 128 * half;
        low_bits(part, 64, block.ql + 64 * half);
        for (int i = 0; i < 32; ++i) {
            const int pairs = part[i] >> 4 | part[32 + i] >> 4 << 2 | part[64 + i] >> 4 << 4 | part[96 + i] >> 4 << 6;
            block.qh[32 * half + i] = static_cast<uint8_t>(pairs);
        }
    }
    return right;
}

// Blocks until one has a quant that the format has not. `head_at`: where a block's head lies in it.
template <class Block>
int64_t build_all(const uint8_t *q, size_t q_bytes, const uint8_t *heads, size_t head_at, size_t head_bytes, int64_t n, uint8_t *blocks) {
    for (int64_t i = 0; i < n; ++i) {
        Block block;
        std::memcpy(reinterpret_cast<uint8_t *>(&block) + head_at, heads + static_cast<size_t>(i) * head_bytes, head_bytes);
        if (!build(q + static_cast<size_t>(i) * q_bytes, block)) return i;
        std::memcpy(blocks + static_cast<size_t>(i) * sizeof block, &block, sizeof block);
    }
    return n;
}

}  // namespace
}  // namespace ei

extern "C" {

int64_t ei_build_blocks(int32_t format, const void *quants, const void *scales, int64_t n_blocks, void *blocks) {
    using namespace ei;
    const uint8_t *const q = static_cast<const uint8_t *>(quants), *const heads = static_cast<const uint8_t *>(scales);
    uint8_t *const out = static_cast<uint8_t *>(blocks);
    switch (format) {
        case EI_FORMAT_Q4_0: return build_all<BlockQ4_0>(q, 16, heads, 0, 2, n_blocks, out);
        case EI_FORMAT_Q4_1: return build_all<BlockQ4_1>(q, 16, heads, 0, 4, n_blocks, out);
        case EI_FORMAT_Q5_0: return build_all<BlockQ5_0>(q, 32, heads, 0, 2, n_blocks, out);
        case EI_FORMAT_Q5_1: return build_all<BlockQ5_1>(q, 32, heads, 0, 4, n_blocks, out);
        case EI_FORMAT_Q8_0: return build_all<BlockQ8_0>(q, 32, heads, 0, 2, n_blocks, out);
        case EI_FORMAT_Q4_K: return build_all<BlockQ4_K>(q, 128, heads, 0, 16, n_blocks, out);
        case EI_FORMAT_Q5_K: return build_all<BlockQ5_K>(q, 256, heads, 0, 16, n_blocks, out);
        case EI_FORMAT_Q6_K: return build_all<BlockQ6_K>(q, 256, heads, offsetof(BlockQ6_K, scales), 18, n_blocks, out);
        default: return EI_UNKNOWN;
    }
}

}  // extern "C"
