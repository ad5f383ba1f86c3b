// EI_KEEP(x): the compiler must have x in a vector register here and may assume nothing about its value afterwards.
#ifndef EI_PROBE_KEEP_H
#define EI_PROBE_KEEP_H

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define EI_KEEP(x) _ReadWriteBarrier()
#elif defined(__aarch64__)
#define EI_KEEP(x) __asm__ volatile("" : "+w"(x))
#else
#define EI_KEEP(x) __asm__ volatile("" : "+v"(x))
#endif

#endif
