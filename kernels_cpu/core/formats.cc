#include "core/formats.h"

#include "edgeinfer_kernels.h"

namespace ei {
namespace {

const Format kFormats[] = {
    {EI_FORMAT_F32, "f32", 1, sizeof(float), sizeof(BodyF32), 0, Activation::float32, 0},
    {EI_FORMAT_F16, "f16", 1, sizeof(uint16_t), sizeof(BodyF16), 0, Activation::float32, 0},
    {EI_FORMAT_BF16, "bf16", 1, sizeof(uint16_t), sizeof(BodyF16), 0, Activation::float32, 0},
    {EI_FORMAT_Q4_0, "q4_0", 32, sizeof(BlockQ4_0), sizeof(Nibbles), sizeof(TailScale), Activation::zero32, 8},
    {EI_FORMAT_Q4_1, "q4_1", 32, sizeof(BlockQ4_1), sizeof(Nibbles), sizeof(TailScaleMin), Activation::min32, 0},
    {EI_FORMAT_Q5_0, "q5_0", 32, sizeof(BlockQ5_0), sizeof(NibblesAndBits), sizeof(TailScale), Activation::zero32, 16},
    {EI_FORMAT_Q5_1, "q5_1", 32, sizeof(BlockQ5_1), sizeof(NibblesAndBits), sizeof(TailScaleMin), Activation::min32, 0},
    {EI_FORMAT_Q8_0, "q8_0", 32, sizeof(BlockQ8_0), sizeof(Bytes), sizeof(TailScale), Activation::zero32, 128},
    {EI_FORMAT_Q4_K, "q4_k", 256, sizeof(BlockQ4_K), sizeof(BodyQ4_K), 0, Activation::min256, 0},
    {EI_FORMAT_Q5_K, "q5_k", 256, sizeof(BlockQ5_K), sizeof(BodyQ5_K), 0, Activation::min256, 0},
    {EI_FORMAT_Q6_K, "q6_k", 256, sizeof(BlockQ6_K), sizeof(BodyQ6_K), sizeof(TailScale), Activation::zero256, 32},
    {EI_FORMAT_IQ4_NL, "iq4_nl", 32, sizeof(BlockQ4_0), sizeof(Nibbles), sizeof(TailScale), Activation::zero32, 128},
};

}  // namespace

const Format *find_format(int32_t id) {
    for (const Format &format : kFormats) {
        if (format.id == id) return &format;
    }
    return nullptr;
}

}  // namespace ei
