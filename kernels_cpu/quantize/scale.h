// How a block of floats becomes int8: one scale, from its largest magnitude.
#ifndef EI_QUANTIZE_SCALE_H
#define EI_QUANTIZE_SCALE_H

#include "core/compiler.h"
#include "core/formats.h"
#include "core/half.h"

namespace ei {
namespace {

// d, and what elements are multiplied with: 0 where the block is all but zero, or not finite and d is NaN.
struct Scale {
    float d, inverse;
};

// `bits`: of the largest magnitude.
EI_INLINE Scale scale_of(uint32_t bits) {
    const float max = bits_float(bits);
    if (bits >= 0x7f800000) return {bits_float(0x7fc00000), 0.0f};
    if (max < kTinyActivation) return {0.0f, 0.0f};
    return {max / 127.0f, 127.0f / max};
}

}  // namespace
}  // namespace ei
#endif
