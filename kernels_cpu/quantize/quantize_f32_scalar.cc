// Floats stay floats: weights that are floats multiply them as they are.
#include <cstring>

#include "core/kernel.h"

namespace ei {
namespace {

void copy(const QuantizeArgs &args) {
    ActivationFloat32 &block = *static_cast<ActivationFloat32 *>(args.block);
    for (int c = 0; c < args.n_columns; ++c) {
        if (args.n_elements == kFloatsPerBlock) {
            std::memcpy(block.x[c], args.columns[c], sizeof block.x[c]);  // of constant size, so without a call
        } else {
            std::memcpy(block.x[c], args.columns[c], static_cast<size_t>(args.n_elements) * sizeof(float));
        }
    }
}

}  // namespace

extern const Kernel ei_kernel_quantize_f32_scalar;
const Kernel ei_kernel_quantize_f32_scalar(EI_ISA_SCALAR, kQuantizeFloat32, copy);

}  // namespace ei
