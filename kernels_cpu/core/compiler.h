// What compilers spell differently.
#ifndef EI_CORE_COMPILER_H
#define EI_CORE_COMPILER_H

// EI_UNROLL before a loop of constant length over registers: without it the array is unrolled too late to leave memory.
// EI_ROLLED before a loop whose body is long: unrolled it would not fit the instruction cache.
// EI_KEEP_LOOPS makes both nothing, for builds with sanitizers.
#if defined(EI_KEEP_LOOPS)
#define EI_UNROLL
#define EI_ROLLED
#elif defined(__clang__)
#define EI_UNROLL _Pragma("clang loop unroll(full)")
#define EI_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define EI_UNROLL _Pragma("GCC unroll 64")
#define EI_ROLLED _Pragma("GCC unroll 1")
#else
#define EI_UNROLL
#define EI_ROLLED
#endif

// EI_PREFETCH asks for a cache line; any address will do. Nothing where a compiler has no word for it that suits all architectures.
// EI_PREFETCH_L2 brings it only to the second level, which has more requests under way: for lines too scattered to be guessed.
#if defined(_MSC_VER) && !defined(__clang__)
#define EI_PREFETCH(at) static_cast<void>(at)
#define EI_PREFETCH_L2(at) static_cast<void>(at)
#define EI_FORCE_INLINE __forceinline
#else
#define EI_PREFETCH(at) __builtin_prefetch(at)
#define EI_PREFETCH_L2(at) __builtin_prefetch(at, 0, 2)
#define EI_FORCE_INLINE inline __attribute__((always_inline))
#endif
#define EI_INLINE static EI_FORCE_INLINE

#endif
