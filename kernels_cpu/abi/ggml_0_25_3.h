// The part of ggml 0.25.3 (as built by llama-cpp-python 0.3.36) that our plug-in touches, written down as facts: sizes, offsets, slots of
// tables, the order of virtual functions. Sources: ggml/include/ggml.h, ggml/src/ggml-backend-impl.h, ggml/src/ggml-cpu/traits.h and
// ggml-cpu-impl.h of that version. ggml promises none of it to stay, so plugin/install.cc asks for exactly this version and tries
// everything on a small graph before a model sees it.
#ifndef EI_ABI_GGML_0_25_3_H
#define EI_ABI_GGML_0_25_3_H

#include <cstddef>
#include <cstdint>

namespace ggml {

constexpr const char *kVersion = "0.25.3";

enum Type : int32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kI32 = 26 };
enum Op : int32_t { kMulMat = 29, kMulMatId = 30, kFlashAttention = 74 };
enum Status : int32_t { kSuccess = 0 };

struct Buffer;
struct BufferType;
struct ThreadPool;
struct Context;
struct Graph;
struct Backend;
struct Device;

struct Tensor {  // ggml_tensor
    int32_t type;
    Buffer *buffer;
    int64_t ne[4];
    size_t nb[4];
    int32_t op;
    int32_t op_params[16];
    int32_t flags;
    Tensor *src[10];
    Tensor *view_src;
    size_t view_offs;
    void *data;
    char name[64];
    void *extra;
    char padding[8];
};
static_assert(sizeof(Tensor) == 336 && offsetof(Tensor, op) == 80 && offsetof(Tensor, src) == 152 && offsetof(Tensor, data) == 248 &&
                  offsetof(Tensor, extra) == 320,
              "ggml_tensor of 0.25.3");

struct BufferTypeInterface {  // ggml_backend_buffer_type_i
    const char *(*get_name)(BufferType *);
    Buffer *(*alloc_buffer)(BufferType *, size_t size);
    size_t (*get_alignment)(BufferType *);
    size_t (*get_max_size)(BufferType *);
    size_t (*get_alloc_size)(BufferType *, const Tensor *);
    bool (*is_host)(BufferType *);
};

struct BufferType {  // ggml_backend_buffer_type
    BufferTypeInterface iface;
    Device *device;
    void *context;
};
static_assert(sizeof(BufferType) == 64, "ggml_backend_buffer_type of 0.25.3");

struct BufferInterface {  // ggml_backend_buffer_i
    void (*free_buffer)(Buffer *);
    void *(*get_base)(Buffer *);
    int32_t (*init_tensor)(Buffer *, Tensor *);
    void (*memset_tensor)(Buffer *, Tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(Buffer *, Tensor *, const void *data, size_t offset, size_t size);
    void (*get_tensor)(Buffer *, const Tensor *, void *data, size_t offset, size_t size);
    void (*set_tensor_2d)(Buffer *, Tensor *, const void *data, size_t offset, size_t size, size_t n_copies, size_t stride_tensor,
                          size_t stride_data);
    void (*get_tensor_2d)(Buffer *, const Tensor *, void *data, size_t offset, size_t size, size_t n_copies, size_t stride_tensor,
                          size_t stride_data);
    bool (*cpy_tensor)(Buffer *, const Tensor *source, Tensor *target);
    void (*clear)(Buffer *, uint8_t value);
    void (*reset)(Buffer *);
};

struct Buffer {  // ggml_backend_buffer
    BufferInterface iface;
    BufferType *buft;
    void *context;
    size_t size;
    int32_t usage;
};
static_assert(offsetof(Buffer, buft) == 88 && sizeof(Buffer) == 120, "ggml_backend_buffer of 0.25.3");

struct Registry {  // ggml_backend_reg
    int32_t api_version;
    const char *(*get_name)(Registry *);
    size_t (*get_device_count)(Registry *);
    Device *(*get_device)(Registry *, size_t index);
    void *(*get_proc_address)(Registry *, const char *name);
    void *context;
};
static_assert(sizeof(Registry) == 48, "ggml_backend_reg of 0.25.3");
constexpr int32_t kApiVersion = 2;

struct ComputeParams {  // ggml_compute_params
    int ith, nth;
    size_t wsize;
    void *wdata;
    ThreadPool *threadpool;
    bool use_ref;
};
static_assert(offsetof(ComputeParams, wdata) == 16 && sizeof(ComputeParams) == 40, "ggml_compute_params of 0.25.3");

// Virtual tables after the Itanium C++ ABI: two destructors, then the functions in the order of declaration.
class TensorTraits {  // ggml::cpu::tensor_traits
  public:
    virtual ~TensorTraits() = default;
    virtual bool work_size(int n_threads, const Tensor *op, size_t &size) = 0;
    virtual bool compute_forward(ComputeParams *params, Tensor *op) = 0;
};

class ExtraBufferType {  // ggml::cpu::extra_buffer_type
  public:
    virtual ~ExtraBufferType() = default;
    virtual bool supports_op(Device *device, const Tensor *op) = 0;
    virtual TensorTraits *get_tensor_traits(const Tensor *op) = 0;
};

struct InitParams {  // ggml_init_params
    size_t mem_size;
    void *mem_buffer;
    bool no_alloc;
};

}  // namespace ggml
#endif
