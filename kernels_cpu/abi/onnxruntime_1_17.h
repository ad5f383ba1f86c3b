// The part of ONNX Runtime's C API that our operators touch, written down as facts: slots of its table of functions by their number, and
// the structure by which an operator is described. Sources: include/onnxruntime/core/session/onnxruntime_c_api.h and onnxruntime_c_api.cc.
// ONNX Runtime promises that a slot never moves: the table only grows at its end, so what version 1.17 has is there in all later ones.
// onnxruntime/register.cc asks for this version and tries the slots that can be tried without a model.
#ifndef EI_ABI_ONNXRUNTIME_1_17_H
#define EI_ABI_ONNXRUNTIME_1_17_H

#include <cstddef>
#include <cstdint>

#if defined(_WIN32) && !defined(_WIN64)
#define EI_ORT_CALL __stdcall
#else
#define EI_ORT_CALL
#endif

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

struct OrtApi;  // a table of pointers to functions; see ort::Slot

struct OrtApiBase {
    const OrtApi *(EI_ORT_CALL *GetApi)(uint32_t version);
    const char *(EI_ORT_CALL *GetVersionString)();
};
static_assert(sizeof(OrtApiBase) == 2 * sizeof(void *), "OrtApiBase never changes");

struct OrtCustomOp {
    uint32_t version;  // of the table that the operator was written for; says which members below exist
    void *(EI_ORT_CALL *CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(EI_ORT_CALL *GetName)(const OrtCustomOp *);
    const char *(EI_ORT_CALL *GetExecutionProviderType)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetInputType)(const OrtCustomOp *, size_t index);  // ort::ElementType
    size_t(EI_ORT_CALL *GetInputTypeCount)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetOutputType)(const OrtCustomOp *, size_t index);
    size_t(EI_ORT_CALL *GetOutputTypeCount)(const OrtCustomOp *);
    void(EI_ORT_CALL *KernelCompute)(void *kernel, OrtKernelContext *);
    void(EI_ORT_CALL *KernelDestroy)(void *kernel);
    int(EI_ORT_CALL *GetInputCharacteristic)(const OrtCustomOp *, size_t index);  // ort::Characteristic
    int(EI_ORT_CALL *GetOutputCharacteristic)(const OrtCustomOp *, size_t index);
    int(EI_ORT_CALL *GetInputMemoryType)(const OrtCustomOp *, size_t index);
    int(EI_ORT_CALL *GetVariadicInputMinArity)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetVariadicOutputMinArity)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    // Since version 16; used instead of CreateKernel and KernelCompute.
    OrtStatus *(EI_ORT_CALL *CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **kernel);
    OrtStatus *(EI_ORT_CALL *KernelComputeV2)(void *kernel, OrtKernelContext *);
    // Since version 17.
    OrtStatus *(EI_ORT_CALL *InferOutputShapeFn)(const OrtCustomOp *, OrtShapeInferContext *);
    int(EI_ORT_CALL *GetStartVersion)(const OrtCustomOp *);
    int(EI_ORT_CALL *GetEndVersion)(const OrtCustomOp *);
    // Since version 18: never read, as `version` is 17; here so that a reader of newer headers finds what he expects.
    size_t(EI_ORT_CALL *GetMayInplace)(int **input_index, int **output_index);
    void(EI_ORT_CALL *ReleaseMayInplace)(int *input_index, int *output_index);
    size_t(EI_ORT_CALL *GetAliasMap)(int **input_index, int **output_index);
    void(EI_ORT_CALL *ReleaseAliasMap)(int *input_index, int *output_index);
};
static_assert(offsetof(OrtCustomOp, CreateKernelV2) == 17 * sizeof(void *), "OrtCustomOp since 1.16");
static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void *), "OrtCustomOp of 1.18");

}  // extern "C"

namespace ort {

constexpr uint32_t kApiVersion = 17;

enum ElementType : int { kAny = 0, kFloat = 1, kUint8 = 2, kInt64 = 7, kHalf = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum { kDefaultMemory = 0, kDeviceAllocator = 0 };

// EI_ORT(slot, result, name, arguments)
#define EI_ORT_SLOTS(EI_ORT)                                                                                                            \
    EI_ORT(0, OrtStatus *, CreateStatus, (int code, const char *message))                                                               \
    EI_ORT(1, int, GetErrorCode, (const OrtStatus *))                                                                                   \
    EI_ORT(2, const char *, GetErrorMessage, (const OrtStatus *))                                                                       \
    EI_ORT(26, OrtStatus *, CreateCustomOpDomain, (const char *name, OrtCustomOpDomain **))                                             \
    EI_ORT(27, OrtStatus *, CustomOpDomain_Add, (OrtCustomOpDomain *, const OrtCustomOp *))                                             \
    EI_ORT(28, OrtStatus *, AddCustomOpDomain, (OrtSessionOptions *, OrtCustomOpDomain *))                                              \
    EI_ORT(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                                                             \
           (const OrtMemoryInfo *, void *data, size_t n_bytes, const int64_t *shape, size_t n_dims, int type, OrtValue **))             \
    EI_ORT(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                                                \
    EI_ORT(60, OrtStatus *, GetTensorElementType, (const OrtTensorTypeAndShapeInfo *, int *))                                           \
    EI_ORT(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *, size_t *))                                          \
    EI_ORT(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))                                      \
    EI_ORT(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtTensorTypeAndShapeInfo **))                                    \
    EI_ORT(69, OrtStatus *, CreateCpuMemoryInfo, (int allocator, int memory, OrtMemoryInfo **))                                         \
    EI_ORT(85, OrtStatus *, KernelInfoGetAttribute_float, (const OrtKernelInfo *, const char *name, float *))                           \
    EI_ORT(86, OrtStatus *, KernelInfoGetAttribute_int64, (const OrtKernelInfo *, const char *name, int64_t *))                         \
    EI_ORT(87, OrtStatus *, KernelInfoGetAttribute_string, (const OrtKernelInfo *, const char *name, char *, size_t *n))                \
    EI_ORT(88, OrtStatus *, KernelContext_GetInputCount, (const OrtKernelContext *, size_t *))                                          \
    EI_ORT(89, OrtStatus *, KernelContext_GetOutputCount, (const OrtKernelContext *, size_t *))                                         \
    EI_ORT(90, OrtStatus *, KernelContext_GetInput, (const OrtKernelContext *, size_t, const OrtValue **))                              \
    EI_ORT(91, OrtStatus *, KernelContext_GetOutput, (OrtKernelContext *, size_t, const int64_t *shape, size_t n_dims, OrtValue **))    \
    EI_ORT(93, void, ReleaseStatus, (OrtStatus *))                                                                                      \
    EI_ORT(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                                                              \
    EI_ORT(96, void, ReleaseValue, (OrtValue *))                                                                                        \
    EI_ORT(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo *))                                                      \
    EI_ORT(163, OrtStatus *, KernelInfoGetAttributeArray_int64, (const OrtKernelInfo *, const char *name, int64_t *, size_t *n))        \
    EI_ORT(230, OrtStatus *, KernelInfo_GetInputCount, (const OrtKernelInfo *, size_t *))                                               \
    EI_ORT(231, OrtStatus *, KernelInfo_GetOutputCount, (const OrtKernelInfo *, size_t *))                                              \
    EI_ORT(244, OrtStatus *, KernelInfo_GetNodeName, (const OrtKernelInfo *, char *, size_t *n))                                        \
    EI_ORT(249, OrtStatus *, KernelInfoGetConstantInput_tensor, (const OrtKernelInfo *, size_t, int *is_constant, const OrtValue **))   \
    EI_ORT(274, OrtStatus *, KernelContext_ParallelFor,                                                                                 \
           (const OrtKernelContext *, void (*work)(void *, size_t), size_t n_items, size_t n_batches, void *data))

// The functions, copied out of the table once.
struct Functions {
#define EI_ORT(slot, result, name, arguments) result(EI_ORT_CALL *name) arguments;
    EI_ORT_SLOTS(EI_ORT)
#undef EI_ORT
};

}  // namespace ort
#endif
