// CHECK(condition, format, ...): says which line failed, with what, and makes the program fail at its end.
#ifndef EI_TESTS_CHECK_H
#define EI_TESTS_CHECK_H

#include <cstdio>

namespace check {

inline int n_failed = 0;

inline int result() {
    if (n_failed) std::fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}

}  // namespace check

#define CHECK(condition, ...)                                                             \
    do {                                                                                  \
        if (!(condition) && ++check::n_failed <= 20) {                                    \
            std::fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition); \
            std::fprintf(stderr, __VA_ARGS__);                                            \
            std::fprintf(stderr, "\n");                                                   \
        }                                                                                 \
    } while (0)

#endif
