#include "onnxruntime/session.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace ei {

ort::Functions g_ort{};

namespace {

// Takes a status as an answer to a question: whether there was none.
bool succeeded(OrtStatus *status) {
    if (status == nullptr) return true;
    g_ort.ReleaseStatus(status);
    return false;
}

int threads_of(const OrtKernelInfo *info, const char *attribute) {
    int64_t wanted = 0;
    if (!succeeded(g_ort.KernelInfoGetAttribute_int64(info, attribute, &wanted)) || wanted < 1 || wanted > 1024) {
        return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    }
    return static_cast<int>(wanted);
}

// A TensorTypeAndShapeInfo that is given back at the end of its scope.
struct Shape {
    OrtTensorTypeAndShapeInfo *info = nullptr;

    Shape() = default;
    Shape(const Shape &) = delete;
    Shape &operator=(const Shape &) = delete;
    ~Shape() {
        if (info) g_ort.ReleaseTensorTypeAndShapeInfo(info);
    }
};

}  // namespace

Node::Node(const OrtKernelInfo *info) : n_threads(threads_of(info, "n_threads")), n_threads_batch(threads_of(info, "n_threads_batch")) {
    size_t n = sizeof name;
    if (!succeeded(g_ort.KernelInfo_GetNodeName(info, name, &n))) name[0] = '?', name[1] = 0;
}

OrtStatus *Node::fail(const char *format, ...) const {
    char message[384];
    const int n = std::snprintf(message, sizeof message, "edgeinfer: %s: ", name);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message + n, sizeof message - static_cast<size_t>(n), format, arguments);
    va_end(arguments);
    return g_ort.CreateStatus(ort::kInvalidArgument, message);
}

OrtStatus *Node::found(OrtStatus *status, const char *attribute) const {
    return succeeded(status) ? nullptr : fail("attribute %s is missing, of another type, or too long", attribute);
}

OrtStatus *Node::read(const OrtKernelInfo *info, const char *attribute, int64_t least, int64_t most, int64_t *value) const {
    EI_TRY(found(g_ort.KernelInfoGetAttribute_int64(info, attribute, value), attribute));
    if (*value >= least && *value <= most) return nullptr;
    return fail("%s is %lld, but must be from %lld to %lld", attribute, wide(*value), wide(least),
                wide(most));
}

OrtStatus *Node::read(const OrtKernelInfo *info, const char *attribute, float *value) const {
    EI_TRY(found(g_ort.KernelInfoGetAttribute_float(info, attribute, value), attribute));
    if (*value - *value == 0.0f) return nullptr;
    return fail("%s is not a number", attribute);
}

OrtStatus *Node::read(const OrtKernelInfo *info, const char *attribute, char *text, size_t n_bytes) const {
    return found(g_ort.KernelInfoGetAttribute_string(info, attribute, text, &n_bytes), attribute);
}

OrtStatus *Node::read(const OrtKernelInfo *info, const char *attribute, int64_t *values, size_t most, size_t *n) const {
    *n = most;
    return found(g_ort.KernelInfoGetAttributeArray_int64(info, attribute, values, n), attribute);
}

int64_t Tensor::count() const {
    int64_t n = 1;
    for (size_t i = 0; i < n_dims; ++i) {
        if (shape[i] <= 0) return 0;
    }
    for (size_t i = 0; i < n_dims; ++i) n *= shape[i];
    return n;
}

OrtStatus *read_tensor(const Node &node, const char *what, const OrtValue *value, int type, Tensor *tensor) {
    *tensor = Tensor();
    if (value == nullptr) return nullptr;
    Shape shape;
    int found = 0;
    EI_TRY(g_ort.GetTensorTypeAndShape(value, &shape.info));
    EI_TRY(g_ort.GetTensorElementType(shape.info, &found));
    EI_TRY(g_ort.GetDimensionsCount(shape.info, &tensor->n_dims));
    if (found != type) return node.fail("%s has elements of type %d, not %d", what, found, type);
    if (tensor->n_dims > kMostDims) return node.fail("%s has %zu dimensions, more than %zu", what, tensor->n_dims, kMostDims);
    EI_TRY(g_ort.GetDimensions(shape.info, tensor->shape, tensor->n_dims));
    // There is no function that gives a constant value's address; nothing is written to what is only read.
    return g_ort.GetTensorMutableData(const_cast<OrtValue *>(value), reinterpret_cast<void **>(&tensor->data));
}

OrtStatus *read_input(const Node &node, const OrtKernelContext *context, size_t index, const char *what, int type, Tensor *tensor,
                      bool needed) {
    const OrtValue *value = nullptr;
    EI_TRY(g_ort.KernelContext_GetInput(context, index, &value));
    if (value == nullptr && needed) return node.fail("%s is missing", what);
    return read_tensor(node, what, value, type, tensor);
}

OrtStatus *read_constant(const Node &node, const OrtKernelInfo *info, size_t index, const char *what, int type, Tensor *tensor) {
    const OrtValue *value = nullptr;
    int is_constant = 0;
    EI_TRY(g_ort.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
    if (!is_constant || value == nullptr) return node.fail("%s is not an initializer", what);
    return read_tensor(node, what, value, type, tensor);
}

OrtStatus *make_output(OrtKernelContext *context, size_t index, const int64_t *shape, size_t n_dims, float **data) {
    OrtValue *value = nullptr;
    *data = nullptr;
    EI_TRY(g_ort.KernelContext_GetOutput(context, index, shape, n_dims, &value));
    if (value == nullptr) return nullptr;
    return g_ort.GetTensorMutableData(value, reinterpret_cast<void **>(data));
}

namespace {

struct Workspace {
    void *memory = nullptr;
    size_t n_bytes = 0;

    ~Workspace() { std::free(memory); }
};

}  // namespace

char *workspace(size_t n_bytes) {
    static thread_local Workspace mine;
    if (n_bytes + 64 > mine.n_bytes) {
        std::free(mine.memory);
        // What it held is no longer needed; a little more, so that lengths which grow by one do not ask each time.
        mine.n_bytes = n_bytes + n_bytes / 8 + 64;
        mine.memory = std::malloc(mine.n_bytes);
        if (mine.memory == nullptr) mine.n_bytes = 0;
    }
    if (mine.memory == nullptr) return nullptr;
    return reinterpret_cast<char *>(round_up(reinterpret_cast<size_t>(mine.memory), 64));
}

}  // namespace ei
