// Small deterministic randomness (xorshift64*), and bytes that make every kind of trouble.
#ifndef EI_TESTS_RANDOM_H
#define EI_TESTS_RANDOM_H

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
    uint64_t next() {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return state * 0x2545f4914f6cdd1du;
    }
    int below(int n) { return static_cast<int>(next() >> 33) % n; }
    float unit() { return static_cast<float>(static_cast<int64_t>(next()) >> 39) * 0x1p-24f; }  // -1 .. 1
};

// Memory aligned as the kernels want it, filled with a pattern that no test expects.
struct Buffer {
    std::vector<uint8_t> bytes;
    explicit Buffer(size_t size) : bytes(size + 128, 0xa5) {}
    uint8_t *data() { return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64); }
    template <class T>
    T *as() {
        return reinterpret_cast<T *>(data());
    }
};

#endif
