// Keys and values in q8_0: blocks of 32 int8 and a scale in half precision. Per query and cell, and so for every ISA to the bit:
//
//   query   x = q * scale of scores, each 32 to int8 as activations are: d = max |x| / 127, by quantize/scale.h
//   score   s = 0; for each block: s = fma(d_query * d_key, float(I), s), I = sum of 32 products of int8, exact in int32: at most 2^19
//   value   v = d * q, exact in single precision: 11 bits by 8
//
// `B` is the instruction set's part in int8 (blocks_<isa>.h):
//
//   kVectors                        how many times 16 cells' sums stay in registers
//   Ints                            16 int32
//   largest(a, b)                   bits of the largest magnitude of 32 floats, NaN above infinity
//   quantize(x, to)                 16 floats within +-127 to int8, ties to even
//   transpose(cells, offset, to)    32 int8 of 16 cells, at cells[i] + offset, to[group of 4][64 cells][4]; the first of 64 cells at `to`
//   dots<R>(q, stride, k, sums)     sums of 32 products of R queries, QueryBlocks `stride` bytes apart, with what transpose made
//   to_float, load_int8, set_half   conversions to 16 floats: of Ints, of 16 int8, of one half 16 times
#ifndef EI_ATTENTION_KV_Q8_0_H
#define EI_ATTENTION_KV_Q8_0_H

#include "attention/unit.h"
#include "core/formats.h"
#include "quantize/scale.h"

namespace ei {
namespace {

struct QueryBlock {
    int8_t q[32];
    float d;
    int32_t offset;  // -128 * sum of q, for instructions whose other operand is unsigned
};
static_assert(sizeof(QueryBlock) == 40 && sizeof(QueryBlock) <= 32 * sizeof(float), "a query fits where floats would");

constexpr int kBlock = 32;
constexpr size_t kGroupBytes = kTileCells * 4, kTileBlockBytes = kTileCells * kBlock;

template <class L, class B>
struct BlockKeys {
    static constexpr size_t query_bytes(int64_t head_dim) { return static_cast<size_t>(head_dim / kBlock) * sizeof(QueryBlock); }
    static void prepare_query(const float *from, float scale, int64_t head_dim, char *to) {
        QueryBlock *block = reinterpret_cast<QueryBlock *>(to);
        for (int64_t at = 0; at < head_dim; at += kBlock, ++block) {
            const typename L::F a = L::mul(L::load(from + at), L::set(scale)), b = L::mul(L::load(from + at + 16), L::set(scale));
            const Scale s = scale_of(B::largest(a, b));
            *block = {{}, s.d, 0};
            if (s.inverse == 0.0f) continue;
            B::quantize(L::mul(a, L::set(s.inverse)), block->q);
            B::quantize(L::mul(b, L::set(s.inverse)), block->q + 16);
            for (int i = 0; i < kBlock; ++i) block->offset -= 128 * block->q[i];
        }
    }

    // 64 cells, while those that come next are on their way: all int8 as tile[block][group][64][4], then the scales as floats [block][64].
    static void load_tile(const char *const *cells, const char *const *next, int64_t head_dim, char *tile) {
        const size_t n_blocks = static_cast<size_t>(head_dim / kBlock);
        float *const scales = reinterpret_cast<float *>(tile + n_blocks * kTileBlockBytes);
        for (int i = 0; i < kTileCells; i += 16) {
            for (size_t block = 0; block < n_blocks; ++block) {
                const size_t at = block * sizeof(BlockQ8_0);
                prefetch_cells(next + i, 16, at + sizeof(BlockQ8_0) - 1, at + sizeof(BlockQ8_0));
                uint16_t d[16];
                for (int j = 0; j < 16; ++j) std::memcpy(d + j, cells[i + j] + at, sizeof *d);
                B::transpose(cells + i, at + offsetof(BlockQ8_0, qs), tile + block * kTileBlockBytes + 4 * i);
                L::store(scales + block * kTileCells + i, L::load_half(d));
            }
        }
    }

    template <int R>
    static void score(const char *queries, int64_t head_dim, const char *tile, float *scores, size_t stride) {
        const size_t query_stride = query_bytes(head_dim), n_blocks = static_cast<size_t>(head_dim / kBlock);
        for (int first = 0; first < kTileCells; first += 16 * B::kVectors) {
            typename L::F sum[R][B::kVectors];
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                EI_UNROLL
                for (int j = 0; j < B::kVectors; ++j) sum[r][j] = L::set(0.0f);
            }
            const float *scales = reinterpret_cast<const float *>(tile + n_blocks * kTileBlockBytes) + first;
            for (size_t block = 0; block < n_blocks; ++block, scales += kTileCells) {
                const char *const q = queries + block * sizeof(QueryBlock);
                typename B::Ints dots[R][B::kVectors];
                B::template dots<R>(q, query_stride, tile + block * kTileBlockBytes + 4 * first, dots);
                EI_UNROLL
                for (int r = 0; r < R; ++r) {
                    const typename L::F d = L::set(reinterpret_cast<const QueryBlock *>(q + r * query_stride)->d);
                    EI_UNROLL
                    for (int j = 0; j < B::kVectors; ++j) {
                        sum[r][j] = L::fma(L::mul(d, L::load(scales + 16 * j)), B::to_float(dots[r][j]), sum[r][j]);
                    }
                }
            }
            EI_UNROLL
            for (int r = 0; r < R; ++r) {
                EI_UNROLL
                for (int j = 0; j < B::kVectors; ++j) L::store(scores + r * stride + first + 16 * j, sum[r][j]);
            }
        }
    }
};

template <class L, class B>
struct BlockValues {
    static constexpr size_t cell_bytes(int64_t head_dim) { return static_cast<size_t>(head_dim / kBlock) * sizeof(BlockQ8_0); }
    // At least the largest |v| of a cell, for no int8 is larger than 128; infinity where a scale is not finite.
    static float largest(const char *cell, int64_t head_dim) {
        uint16_t largest = 0;
        for (size_t at = 0; at < cell_bytes(head_dim); at += sizeof(BlockQ8_0)) {
            uint16_t d;
            std::memcpy(&d, cell + at, sizeof d);
            d &= 0x7fff;
            largest = d > largest ? d : largest;
        }
        return largest < kHalfInfinity ? 128.0f * half_to_float(largest) : HUGE_VALF;
    }
    static constexpr size_t offset(int64_t at) { return cell_bytes(at); }
    // Elements at .. at + 15.
    static EI_FORCE_INLINE typename L::F load(const char *cell, int64_t at) {
        const char *const block = cell + static_cast<size_t>(at / kBlock) * sizeof(BlockQ8_0);
        const int8_t *const q = reinterpret_cast<const int8_t *>(block + offsetof(BlockQ8_0, qs)) + at % kBlock;
        return L::mul(B::load_int8(q), B::set_half(reinterpret_cast<const uint16_t *>(block)));
    }
};

}  // namespace
}  // namespace ei
#endif
