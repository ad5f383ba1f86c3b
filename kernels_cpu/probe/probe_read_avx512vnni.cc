#include <immintrin.h>

#include "core/compiler.h"
#include "core/kernel.h"

namespace ei {
namespace {

uint64_t read(const void *buffer, size_t n_bytes) {
    const char *at = static_cast<const char *>(buffer), *const end = at + n_bytes;
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (; at < end; at += 256) {
        EI_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = _mm512_add_epi64(sum[i], _mm512_load_si512(at + 64 * i));
    }
    const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    return static_cast<uint64_t>(_mm512_reduce_add_epi64(all)) + 1;
}

}  // namespace

extern const Kernel ei_kernel_probe_read_avx512vnni;
const Kernel ei_kernel_probe_read_avx512vnni(EI_ISA_AVX512VNNI, read);

}  // namespace ei
