// EI_UNROLL: before a loop of constant length over registers. Without it the array is unrolled too late to leave memory.
#ifndef EI_CORE_COMPILER_H
#define EI_CORE_COMPILER_H

#if defined(__clang__)
#define EI_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define EI_UNROLL _Pragma("GCC unroll 64")
#else
#define EI_UNROLL
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define EI_INLINE static __forceinline
#else
#define EI_INLINE static inline __attribute__((always_inline))
#endif

#endif
