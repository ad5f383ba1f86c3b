// Half precision to single and back, by the processor's instruction where a file may use it.
#ifndef EI_CORE_HALF_H
#define EI_CORE_HALF_H

#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace ei {

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bits_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// BF16: the upper half of a float's bits.
static inline float brain_to_float(uint16_t brain) { return bits_float(uint32_t{brain} << 16); }

static inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t{half} >> 15 << 31, rest = half & 0x7fff;
    if (rest >= 0x7c00) return bits_float(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
    if (rest >= 0x0400) return bits_float(sign | ((rest << 13) + (112u << 23)));
    // Subnormal: rest * 2^-24, exact in single precision.
    const float magnitude = static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24f;
    return bits_float(sign | float_bits(magnitude));
}

// Rounds to nearest, ties to even.
static inline uint16_t float_to_half(float value) {
#if defined(__F16C__)
    return static_cast<uint16_t>(_cvtss_sh(value, 0));  // the same bits, NaN's included
#else
    const uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffff;
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above round to infinity
    if (magnitude < 0x38800000) {  // below 2^-14: the sum with 0.5 leaves rest * 2^-24 in the low bits, rounded
        const float shifted = bits_float(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (float_bits(shifted) - float_bits(0.5f)));
    }
    const uint32_t odd = magnitude >> 13 & 1;
    return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xfff + odd) >> 13));
#endif
}

}  // namespace ei
#endif
