#include "codec/codec.h"

namespace ei {

extern const Codec ei_codec_f16, ei_codec_bf16, ei_codec_q4_0, ei_codec_q4_1, ei_codec_q5_0, ei_codec_q5_1, ei_codec_q8_0, ei_codec_q4_k,
    ei_codec_q5_k, ei_codec_q6_k, ei_codec_iq4_nl;

namespace {

const Codec *const kCodecs[] = {&ei_codec_f16,  &ei_codec_q4_0, &ei_codec_q4_1, &ei_codec_q5_0, &ei_codec_q5_1,  &ei_codec_q8_0,
                                &ei_codec_q4_k, &ei_codec_q5_k, &ei_codec_q6_k, &ei_codec_iq4_nl, &ei_codec_bf16};

const Codec *find_codec(int32_t format) {
    for (const Codec *codec : kCodecs) {
        if (codec->id == format) return codec;
    }
    return nullptr;
}

// As bits, which are ordered like the magnitudes and put infinity and NaN on top.
bool in_range(const float *x, int64_t n) {
    int32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const int32_t magnitude = static_cast<int32_t>(float_bits(x[i]) & 0x7fffffff);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < static_cast<int32_t>(float_bits(kMaxValue));
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
        if (!codec->special && !ei::in_range(x, n_cols)) return row;
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
