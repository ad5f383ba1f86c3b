// The plug-in for ggml's CPU backend.
//
// ggml-cpu keeps a list of extra buffer types. The loader offers each weight to them in turn, and the compute loop asks each of them about
// every operation. We take over the first of the list in place: its table of functions and its context are ours, and what we do not want
// goes to what was there before. So weights of our formats are packed as they load, products with them and attention run here, in ggml's
// own threads, and everything else, weights that were loaded earlier included, goes on as before.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "edgeinfer_kernels.h"
#include "plugin/file_pages.h"
#include "plugin/install.h"
#include "plugin/operations.h"
#include "plugin/packed_load.h"

namespace ei {

GgmlLibrary g_ggml{};

namespace {

template <int kTerms>  // of x
class MultiplyTraits final : public ggml::TensorTraits {
  public:
    bool work_size(int n_threads, const ggml::Tensor *op, size_t &size) override {
        size = op->op == ggml::kMulMat ? multiply_work_bytes(op, kTerms, n_threads) : multiply_experts_work_bytes(op, kTerms, n_threads);
        return true;
    }
    bool compute_forward(ggml::ComputeParams *params, ggml::Tensor *op) override {
        op->op == ggml::kMulMat ? multiply(*params, op, kTerms) : multiply_experts(*params, op, kTerms);
        return true;
    }
};

class AttendTraits final : public ggml::TensorTraits {
  public:
    bool work_size(int n_threads, const ggml::Tensor *op, size_t &size) override {
        size = attend_work_bytes(op, n_threads);
        return true;
    }
    bool compute_forward(ggml::ComputeParams *params, ggml::Tensor *op) override {
        attend(*params, op);
        return true;
    }
};

// Never destroyed: ggml may still ask them while the process ends.
template <class T>
T &immortal() {
    alignas(T) static char memory[sizeof(T)];
    static T *const object = new (memory) T;
    return *object;
}

struct Hook {
    ggml::BufferType *type;
    ggml::BufferTypeInterface type_before;
    ggml::ExtraBufferType *context_before;
    ggml::BufferInterface buffer_before;
    ggml::Registry *registry;
    void *(*get_proc_address_before)(ggml::Registry *, const char *);
} g_hook{};

// Whether the model that this thread loads is ours to pack, and whether some product of it has weights of less than 8 bits; see
// ei_ggml_pack.
thread_local bool t_pack = true, t_coarse = true;

bool takes(const ggml::Tensor *weight) { return t_pack && can_pack(weight); }

bool is_coarse(int32_t type) { return type != EI_FORMAT_Q8_0 && type != EI_FORMAT_F32 && type != EI_FORMAT_F16 && type != EI_FORMAT_BF16; }

class OurBufferType final : public ggml::ExtraBufferType {
  public:
    bool supports_op(ggml::Device *device, const ggml::Tensor *op) override {
        const ggml::Tensor *weight = op->src[0];
        const bool product = op->op == ggml::kMulMat || op->op == ggml::kMulMatId;
        if (product) t_coarse |= is_coarse(weight->type);  // the loader asks about all before it makes the first
        if (!product || weight->buffer == nullptr || weight->buffer->buft != g_hook.type || !takes(weight)) {
            return g_hook.context_before->supports_op(device, op);
        }
        const ggml::Buffer *x = op->src[1]->buffer;
        return (x == nullptr || g_ggml.ggml_backend_buft_is_host(x->buft)) && (can_multiply(op) || can_multiply_experts(op));
    }
    // For a product this answers the weight's `extra`: ours, or that of who packed it.
    ggml::TensorTraits *get_tensor_traits(const ggml::Tensor *op) override {
        if (op->op == ggml::kFlashAttention) return can_attend(op) ? &immortal<AttendTraits>() : nullptr;
        return g_hook.context_before->get_tensor_traits(op);
    }
};

ggml::TensorTraits *one_term() { return &immortal<MultiplyTraits<1>>(); }
ggml::TensorTraits *two_terms() { return &immortal<MultiplyTraits<2>>(); }

bool is_ours(const ggml::Tensor *tensor) { return tensor->extra == one_term() || tensor->extra == two_terms(); }

int32_t init_tensor(ggml::Buffer *buffer, ggml::Tensor *tensor) {
    if (!takes(tensor)) return g_hook.buffer_before.init_tensor ? g_hook.buffer_before.init_tensor(buffer, tensor) : ggml::kSuccess;
    tensor->extra = tensor->type == EI_FORMAT_Q8_0 && !t_coarse ? two_terms() : one_term();
    return ggml::kSuccess;
}

void set_tensor(ggml::Buffer *buffer, ggml::Tensor *tensor, const void *data, size_t offset, size_t size) {
    if (!is_ours(tensor)) {
        g_hook.buffer_before.set_tensor(buffer, tensor, data, offset, size);
        return give_back_file_pages(data, size);
    }
    if (offset != 0 || size != g_ggml.ggml_nbytes(tensor)) {
        std::fprintf(stderr, "edgeinfer: tensor %s arrives in pieces, which cannot be packed\n", tensor->name);
        std::abort();
    }
    const bool there = note_weight(tensor, packed_bytes(tensor));
    if (has_image()) read_file_plainly(data);  // after what get_proc_address made of it
    if (there) return;
    pack_weight(tensor, data);
    give_back_file_pages(data, size);
}

void take_over(ggml::BufferInterface &iface) {
    iface.init_tensor = init_tensor;
    iface.set_tensor = set_tensor;
    iface.get_tensor = nullptr;
    iface.cpy_tensor = nullptr;
}

// ---- A buffer that is a mapping of an image. Its context is its address.

void free_mapped(ggml::Buffer *buffer) { unmap_image(buffer->context, buffer->size); }
void *base_of_mapped(ggml::Buffer *buffer) { return buffer->context; }
void clear_mapped(ggml::Buffer *buffer, uint8_t value) { std::memset(buffer->context, value, buffer->size); }

// What is not ours of such a buffer's weights goes to the functions of the type that was there before: those of 0.25.3 look at the tensor
// alone. The self-test has allocated a buffer of that type, so they are known.
ggml::Buffer *mapped_buffer(ggml::BufferType *type, size_t size) {
    void *const base = map_image(size);
    if (base == nullptr) return nullptr;
    ggml::BufferInterface iface = g_hook.buffer_before;
    take_over(iface);
    iface.free_buffer = free_mapped;
    iface.get_base = base_of_mapped;
    iface.clear = clear_mapped;
    ggml::Buffer *const buffer = g_ggml.ggml_backend_buffer_init(type, iface, base, size);
    if (buffer == nullptr) unmap_image(base, size);
    return buffer;
}

ggml::Buffer *alloc_buffer(ggml::BufferType *type, size_t size) {
    if (ggml::Buffer *const mapped = mapped_buffer(type, size)) {
        note_buffer(mapped->context, size, true);
        return mapped;
    }
    ggml::Buffer *buffer = g_hook.type_before.alloc_buffer(type, size);
    if (buffer == nullptr) return nullptr;
    g_hook.buffer_before = buffer->iface;
    take_over(buffer->iface);
    note_buffer(buffer->iface.get_base(buffer), size, false);
    return buffer;
}

size_t get_alloc_size(ggml::BufferType *type, const ggml::Tensor *tensor) {
    if (takes(tensor)) return packed_bytes(tensor);
    return g_hook.type_before.get_alloc_size ? g_hook.type_before.get_alloc_size(type, tensor) : g_ggml.ggml_nbytes(tensor);
}

bool several_nodes() { return true; }

// llama.cpp reads the whole file of a model before its first weight, unless it is told that the machine has several NUMA nodes: then it
// leaves pages to be read as they are touched. With an image most of them never are.
void *get_proc_address(ggml::Registry *registry, const char *name) {
    if (has_image() && std::strcmp(name, "ggml_backend_cpu_is_numa") == 0) return reinterpret_cast<void *>(several_nodes);
    return g_hook.get_proc_address_before(registry, name);
}

void hook(ggml::BufferType *type, ggml::Registry *registry) {
    g_hook.registry = registry;
    g_hook.get_proc_address_before = registry->get_proc_address;
    registry->get_proc_address = get_proc_address;
    g_hook.type = type;
    g_hook.type_before = type->iface;
    g_hook.context_before = static_cast<ggml::ExtraBufferType *>(type->context);
    type->context = static_cast<ggml::ExtraBufferType *>(&immortal<OurBufferType>());
    type->iface.alloc_buffer = alloc_buffer;
    type->iface.get_alloc_size = get_alloc_size;
}

void unhook() {
    g_hook.registry->get_proc_address = g_hook.get_proc_address_before;
    g_hook.type->iface = g_hook.type_before;
    g_hook.type->context = g_hook.context_before;
    g_hook = Hook{};
}

// The CPU device, or null.
ggml::Device *cpu_device() {
    constexpr int32_t kCpuDevice = 0;
    return g_ggml.ggml_backend_dev_by_type(kCpuDevice);
}

// The first extra buffer type of the CPU device, or null.
ggml::BufferType *first_extra_buffer_type(ggml::Device *device, ggml::Registry *registry) {
    using GetExtra = ggml::BufferType **(*)(ggml::Device *);
    const GetExtra get =
        reinterpret_cast<GetExtra>(g_ggml.ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts"));
    ggml::BufferType **list = get ? get(device) : nullptr;
    return list ? list[0] : nullptr;
}

const char *try_install(ei_resolve_symbol resolve) {
#define EI_GGML(result, name, arguments)                                              \
    g_ggml.name = reinterpret_cast<result(*) arguments>(resolve(#name));              \
    if (g_ggml.name == nullptr) return "this build of llama.cpp does not export " #name;
    EI_GGML_FUNCTIONS(EI_GGML)
#undef EI_GGML
    if (!(ei_enabled() & ~uint32_t{1 << EI_ISA_SCALAR})) return "this processor has none of the instruction sets that our kernels need";
    if (std::strcmp(g_ggml.ggml_version(), ggml::kVersion) != 0) return "llama.cpp is of another version than our kernels were written for";
    if (const char *why = check_structures()) return why;
    ggml::Device *const device = cpu_device();
    ggml::Registry *const registry = device ? g_ggml.ggml_backend_dev_backend_reg(device) : nullptr;
    ggml::BufferType *type = registry ? first_extra_buffer_type(device, registry) : nullptr;
    if (type == nullptr || type->context == nullptr) return "this build of llama.cpp has no extra buffer type";
    if (registry->api_version != ggml::kApiVersion) return "llama.cpp's structures are not those our kernels were written for";
    hook(type, registry);
    const char *why = self_test();
    if (why != nullptr) unhook();
    return why;
}

}  // namespace

ggml::BufferType *hooked_buffer_type() { return g_hook.type; }

void expect_weights(bool coarse) { t_coarse = coarse; }

}  // namespace ei

extern "C" {

const char *ei_ggml_install(ei_resolve_symbol resolve) {
    if (ei::hooked_buffer_type() != nullptr) return nullptr;
    return ei::try_install(resolve);
}

void ei_ggml_pack(int32_t on) {
    ei::t_pack = on != 0;
    ei::expect_weights(false);
}

}  // extern "C"
