// The functions of ggml's libraries that the plug-in calls, found by name when it is installed: nothing is linked.
#ifndef EI_PLUGIN_LIBRARY_H
#define EI_PLUGIN_LIBRARY_H

#include "abi/ggml_0_25_3.h"

namespace ei {

// EI_GGML(result, name, arguments)
#define EI_GGML_FUNCTIONS(EI_GGML)                                                                                     \
    EI_GGML(const char *, ggml_version, (void))                                                                        \
    EI_GGML(const char *, ggml_op_name, (int32_t))                                                                     \
    EI_GGML(size_t, ggml_type_size, (int32_t))                                                                         \
    EI_GGML(size_t, ggml_nbytes, (const ggml::Tensor *))                                                               \
    EI_GGML(size_t, ggml_tensor_overhead, (void))                                                                      \
    EI_GGML(size_t, ggml_graph_overhead, (void))                                                                       \
    EI_GGML(ggml::Context *, ggml_init, (ggml::InitParams))                                                            \
    EI_GGML(void, ggml_free, (ggml::Context *))                                                                        \
    EI_GGML(ggml::Tensor *, ggml_new_tensor_3d, (ggml::Context *, int32_t, int64_t, int64_t, int64_t))                 \
    EI_GGML(ggml::Tensor *, ggml_set_name, (ggml::Tensor *, const char *))                                             \
    EI_GGML(ggml::Tensor *, ggml_mul_mat, (ggml::Context *, ggml::Tensor *, ggml::Tensor *))                           \
    EI_GGML(ggml::Tensor *, ggml_mul_mat_id, (ggml::Context *, ggml::Tensor *, ggml::Tensor *, ggml::Tensor *))        \
    EI_GGML(ggml::Tensor *, ggml_flash_attn_ext,                                                                       \
            (ggml::Context *, ggml::Tensor *, ggml::Tensor *, ggml::Tensor *, ggml::Tensor *, float, float, float))    \
    EI_GGML(ggml::Graph *, ggml_new_graph, (ggml::Context *))                                                          \
    EI_GGML(void, ggml_build_forward_expand, (ggml::Graph *, ggml::Tensor *))                                          \
    EI_GGML(ggml::Device *, ggml_backend_dev_by_type, (int32_t))                                                       \
    EI_GGML(ggml::Registry *, ggml_backend_dev_backend_reg, (ggml::Device *))                                          \
    EI_GGML(void *, ggml_backend_reg_get_proc_address, (ggml::Registry *, const char *))                               \
    EI_GGML(bool, ggml_backend_buft_is_host, (ggml::BufferType *))                                                     \
    EI_GGML(ggml::BufferType *, ggml_backend_cpu_buffer_type, (void))                                                  \
    EI_GGML(ggml::Buffer *, ggml_backend_alloc_ctx_tensors_from_buft, (ggml::Context *, ggml::BufferType *))           \
    EI_GGML(ggml::Buffer *, ggml_backend_buffer_init, (ggml::BufferType *, ggml::BufferInterface, void *context, size_t)) \
    EI_GGML(void, ggml_backend_buffer_free, (ggml::Buffer *))                                                          \
    EI_GGML(void, ggml_backend_tensor_set, (ggml::Tensor *, const void *, size_t, size_t))                             \
    EI_GGML(ggml::Backend *, ggml_backend_cpu_init, (void))                                                            \
    EI_GGML(void, ggml_backend_cpu_set_n_threads, (ggml::Backend *, int))                                              \
    EI_GGML(int32_t, ggml_backend_graph_compute, (ggml::Backend *, ggml::Graph *))                                     \
    EI_GGML(void, ggml_backend_free, (ggml::Backend *))                                                                \
    EI_GGML(void, ggml_barrier, (ggml::ThreadPool *))                                                                  \
    EI_GGML(void, ggml_threadpool_chunk_set, (ggml::ThreadPool *, int))                                                \
    EI_GGML(int, ggml_threadpool_chunk_add, (ggml::ThreadPool *, int))

struct GgmlLibrary {
#define EI_GGML(result, name, arguments) result(*name) arguments;
    EI_GGML_FUNCTIONS(EI_GGML)
#undef EI_GGML
};

// Filled once by ei_ggml_install, before anything else of the plug-in runs.
extern GgmlLibrary g_ggml;

}  // namespace ei
#endif
