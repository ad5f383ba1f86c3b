// Put before a file of AVX-VNNI, this makes it one of AVX-512-VNNI: the same instruction in the other encoding.
#ifndef EI_TESTS_AVXVNNI_BY_EVEX_H
#define EI_TESTS_AVXVNNI_BY_EVEX_H

#include <immintrin.h>

#undef _mm256_dpbusd_avx_epi32  // a macro in some compilers
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32

#endif
