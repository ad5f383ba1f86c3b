#include "codec/codec.h"
#include "core/isa.h"

namespace ei {

// The codecs of a list of formats, as one compilation of their files named them.
#define EI_CODEC_LIST(ISA)                                                                                                     \
    EI_CODEC_ENTRY(f16, ISA) EI_CODEC_ENTRY(bf16, ISA) EI_CODEC_ENTRY(q4_0, ISA) EI_CODEC_ENTRY(q4_1, ISA)                     \
    EI_CODEC_ENTRY(q5_0, ISA) EI_CODEC_ENTRY(q5_1, ISA) EI_CODEC_ENTRY(q8_0, ISA) EI_CODEC_ENTRY(q4_k, ISA)                    \
    EI_CODEC_ENTRY(q5_k, ISA) EI_CODEC_ENTRY(q6_k, ISA) EI_CODEC_ENTRY(iq4_nl, ISA)

#define EI_CODEC_ENTRY(FORMAT, ISA) extern const Codec EI_CODEC_NAMED(FORMAT, ISA);
EI_CODEC_LIST(baseline)
#if defined(EI_CODEC_AVX2)
EI_CODEC_LIST(avx2)
#endif
#if defined(EI_CODEC_AVX512VNNI)
EI_CODEC_LIST(avx512vnni)
#endif
#undef EI_CODEC_ENTRY

namespace {

#define EI_CODEC_ENTRY(FORMAT, ISA) &EI_CODEC_NAMED(FORMAT, ISA),
const Codec *const kBaseline[] = {EI_CODEC_LIST(baseline)};
#if defined(EI_CODEC_AVX2)
const Codec *const kAvx2[] = {EI_CODEC_LIST(avx2)};
#endif
#if defined(EI_CODEC_AVX512VNNI)
const Codec *const kAvx512[] = {EI_CODEC_LIST(avx512vnni)};
#endif
#undef EI_CODEC_ENTRY

template <size_t kCount>
const Codec *find(const Codec *const (&codecs)[kCount], int32_t format) {
    for (const Codec *codec : codecs) {
        if (codec->id == format) return codec;
    }
    return nullptr;
}

// The compilation for the widest vectors that may be used. All give the same bits.
const Codec *find_codec(int32_t format) {
#if defined(EI_CODEC_AVX512VNNI)
    if (ei_enabled() & isa_bit(EI_ISA_AVX512VNNI)) return find(kAvx512, format);
#endif
#if defined(EI_CODEC_AVX2)
    if (ei_enabled() & isa_bit(EI_ISA_AVX2)) return find(kAvx2, format);
#endif
    return find(kBaseline, format);
}

}  // namespace
}  // namespace ei

extern "C" {

int64_t ei_encode(int32_t format, const float *rows, int64_t n_rows, int64_t n_cols, const float *importance, void *blocks) {
    const ei::Codec *codec = ei::find_codec(format);
    if (codec == nullptr || n_cols % codec->block_size != 0) return EI_UNKNOWN;
    const int64_t n_blocks = n_cols / codec->block_size;
    for (int64_t row = 0; row < n_rows; ++row) {
        const float *x = rows + row * n_cols;
        uint8_t *out = static_cast<uint8_t *>(blocks) + static_cast<size_t>(row * n_blocks) * codec->block_bytes;
        if (!codec->encode(x, importance, n_blocks, out)) return row;
    }
    return n_rows;
}

int32_t ei_decode(int32_t format, const void *blocks, int64_t n_rows, int64_t n_cols, float *rows) {
    const ei::Codec *codec = ei::find_codec(format);
    if (codec == nullptr || n_cols % codec->block_size != 0) return EI_UNKNOWN;
    codec->decode(static_cast<const uint8_t *>(blocks), n_rows * (n_cols / codec->block_size), rows);
    return EI_OK;
}

}  // extern "C"
