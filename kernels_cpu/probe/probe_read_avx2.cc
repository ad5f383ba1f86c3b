#include <immintrin.h>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

uint64_t read(const void *buffer, size_t n_bytes) {
    const __m256i *at = static_cast<const __m256i *>(buffer), *const end = at + n_bytes / 32;
    __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (; at < end; at += 4) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = _mm256_add_epi64(sum[i], _mm256_load_si256(at + i));
    }
    alignas(32) uint64_t lane[4];
    _mm256_store_si256(reinterpret_cast<__m256i *>(lane),
                       _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3])));
    return lane[0] + lane[1] + lane[2] + lane[3] + 1;
}

}  // namespace

extern const Kernel ei_kernel_probe_read_avx2;
const Kernel ei_kernel_probe_read_avx2(EI_ISA_AVX2, read);

}  // namespace ei
