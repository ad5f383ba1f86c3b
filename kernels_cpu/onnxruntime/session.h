// What an operator of ours sees of ONNX Runtime: tensors with checked types and shapes, its threads, memory to work in, and errors. The
// graphs that operators run in are not trusted: whatever does not fit is a status that names the node, and nothing is touched.
#ifndef EI_ONNXRUNTIME_SESSION_H
#define EI_ONNXRUNTIME_SESSION_H

#include <algorithm>
#include <atomic>

#include "abi/onnxruntime_1_17.h"
#include "core/formats.h"

namespace ei {

// Filled once by RegisterCustomOps, before any operator is made.
extern ort::Functions g_ort;

// For messages: what %lld wants.
constexpr long long wide(int64_t value) { return value; }

// A node's name, for messages, and how many threads it may use: those of one column or token, and those of more.
struct Node {
    char name[96] = "?";
    int n_threads = 1, n_threads_batch = 1;

    // Reads the attributes n_threads and n_threads_batch; where they are missing or 0 it is the number of processors.
    explicit Node(const OrtKernelInfo *info);
    int threads(int64_t n_columns) const { return n_columns > 1 ? n_threads_batch : n_threads; }
    // A status that says "edgeinfer: NODE: ...".
    OrtStatus *fail(const char *format, ...) const;

    // Attributes. Absent ones are an error, but for those with a default.
    OrtStatus *read(const OrtKernelInfo *info, const char *attribute, int64_t least, int64_t most, int64_t *value) const;
    OrtStatus *read(const OrtKernelInfo *info, const char *attribute, float *value) const;
    OrtStatus *read(const OrtKernelInfo *info, const char *attribute, char *text, size_t n_bytes) const;
    // Up to `most` integers; *n says how many.
    OrtStatus *read(const OrtKernelInfo *info, const char *attribute, int64_t *values, size_t most, size_t *n) const;

  private:
    OrtStatus *found(OrtStatus *status, const char *attribute) const;
};

constexpr size_t kMostDims = 8;

struct Tensor {
    char *data = nullptr;  // null where an optional tensor is absent
    int64_t shape[kMostDims] = {};
    size_t n_dims = 0;

    template <class T>
    T *as() const {
        return reinterpret_cast<T *>(data);
    }
    int64_t last() const { return n_dims ? shape[n_dims - 1] : 1; }
    bool same_shape(const Tensor &other) const { return n_dims == other.n_dims && std::equal(shape, shape + n_dims, other.shape); }
    // 0 where some dimension is.
    int64_t count() const;
};

// The tensor of a value, which must be of this type and is null for an absent one.
OrtStatus *read_tensor(const Node &node, const char *what, const OrtValue *value, int type, Tensor *tensor);
// An input of a run; `needed`: its absence is an error.
OrtStatus *read_input(const Node &node, const OrtKernelContext *context, size_t index, const char *what, int type, Tensor *tensor,
                      bool needed = true);
// An initializer, which stays where it is for as long as the session lives.
OrtStatus *read_constant(const Node &node, const OrtKernelInfo *info, size_t index, const char *what, int type, Tensor *tensor);
// A float output of that shape; null data where nobody wants it.
OrtStatus *make_output(OrtKernelContext *context, size_t index, const int64_t *shape, size_t n_dims, float **data);

// At least n_bytes of memory, 64-byte aligned, of the thread that runs the session: until the next call on that thread, whose memory stays.
// Null where there is none.
char *workspace(size_t n_bytes);

// work(worker, item) for every item on up to n_threads of the session's threads, this one among them; returns when all are done. Workers
// take items in turn, so that one that is held up does not hold up the others.
template <class Work>
OrtStatus *share_out(const OrtKernelContext *context, int n_threads, int64_t n_items, Work work) {
    const int64_t n_workers = std::min<int64_t>(n_threads, n_items);
    if (n_workers <= 1) {
        for (int64_t item = 0; item < n_items; ++item) work(0, item);
        return nullptr;
    }
    struct Job {
        std::atomic<int64_t> next;
        int64_t n_items;
        Work *work;
    } job{{n_workers}, n_items, &work};
    const auto run = [](void *data, size_t worker) {
        Job &job = *static_cast<Job *>(data);
        for (int64_t item = static_cast<int64_t>(worker); item < job.n_items; item = job.next.fetch_add(1, std::memory_order_relaxed)) {
            (*job.work)(static_cast<int>(worker), item);
        }
    };
    return g_ort.KernelContext_ParallelFor(context, run, static_cast<size_t>(n_workers), 0, &job);
}

// Returns from the function around it with a status, if there is one.
#define EI_TRY(call)                                          \
    do {                                                      \
        if (OrtStatus *const status_ = (call)) return status_; \
    } while (0)

}  // namespace ei
#endif
