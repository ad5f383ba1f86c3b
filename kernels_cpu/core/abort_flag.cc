// The abort callback given to ggml: a decode that is under way looks here between operations, without entering Python.
#include <atomic>

#include "edgeinfer_kernels.h"

static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t) && std::atomic<int32_t>::is_always_lock_free,
              "the flag is a plain int32 in the caller's memory");

extern "C" bool ei_flag(void *flag) { return static_cast<const std::atomic<int32_t> *>(flag)->load(std::memory_order_relaxed) != 0; }
