#include "matmul/scalar.h"

namespace ei {
namespace {

void matmul_q6_k(const MatmulArgs &args) {
    const Format &format = *find_format(EI_FORMAT_Q6_K);
    const ActivationZero256 *const activations = reinterpret_cast<const ActivationZero256 *>(args.activations);
    for_each_output(args, [&](int row, int c) {
        float y = 0.0f;
        uint8_t quants[256];
        for (int64_t b = 0; b < args.n_blocks; ++b) {
            const BlockOffsets at = block_offsets(format, args.n_blocks, b);
            const BodyQ6_K &body = *reinterpret_cast<const BodyQ6_K *>(args.panel + at.body);
            const TailScale &tail = *reinterpret_cast<const TailScale *>(args.panel + at.tail);
            unpack_block(format, args.panel + at.body, row, quants);
            int32_t i = 0;
            for (int s = 0; s < 16; ++s) {
                i += body.scale[s][row] * (dot(quants, activations[b], c, 16 * s, 16) + activations[b].offset[s][c]);
            }
            y = std::fma(half_to_float(tail.d[row]) * activations[b].d[c], static_cast<float>(i), y);
        }
        return y;
    });
}

}  // namespace

extern const Kernel ei_kernel_matmul_q6_k_scalar;
const Kernel ei_kernel_matmul_q6_k_scalar(EI_ISA_SCALAR, EI_FORMAT_Q6_K, matmul_q6_k);

}  // namespace ei
