// The 16 values of IQ4_NL (kvalues_iq4nl of ggml-common.h) plus 128, so that they are unsigned.
#ifndef EI_MATMUL_IQ4_NL_H
#define EI_MATMUL_IQ4_NL_H

#include <cstdint>

namespace ei {

alignas(16) static const uint8_t kIq4NlValues[16] = {
    128 - 127, 128 - 104, 128 - 83, 128 - 65, 128 - 49, 128 - 35, 128 - 22, 128 - 10,
    128 + 1,   128 + 13,  128 + 25, 128 + 38, 128 + 53, 128 + 69, 128 + 89, 128 + 113};

}  // namespace ei
#endif
