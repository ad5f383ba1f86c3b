// The reference product of F32, F16 and BF16; see MatmulArgs in core/kernel.h for what it defines.
#ifndef EI_MATMUL_FLOATS_SCALAR_H
#define EI_MATMUL_FLOATS_SCALAR_H

#include "core/half.h"
#include "matmul/scalar.h"

namespace ei {
namespace {

// One body's value of a row, as a float.
template <class Body>
using Widen = float (*)(const Body &body, int row);

template <class Body, Widen<Body> kWiden>
void matmul_floats(const MatmulArgs &args) {
    const Body *const bodies = reinterpret_cast<const Body *>(args.panel);
    const ActivationFloat32 *const activations = reinterpret_cast<const ActivationFloat32 *>(args.activations);
    for_each_output(args, [&](int row, int c) {
        float y = 0.0f;
        for (int64_t first = 0; first < args.n_blocks; first += kFloatsPerBlock) {
            float s = 0.0f;
            for (int64_t k = first; k < first + kFloatsPerBlock && k < args.n_blocks; ++k) {
                s = std::fma(kWiden(bodies[k], row), activations[first / kFloatsPerBlock].x[c][k - first], s);
            }
            y += s;
        }
        return y;
    });
}

}  // namespace
}  // namespace ei
#endif
