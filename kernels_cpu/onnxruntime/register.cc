// RegisterCustomOps: what ONNX Runtime calls in a library of operators. It first makes sure that ONNX Runtime's table of functions is what
// abi/ says, as far as that can be told without a model; else it answers with a status, and nothing is registered.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <initializer_list>

#include "edgeinfer_kernels.h"
#include "onnxruntime/operators.h"

namespace ei {
namespace {

constexpr const char *kDomain = "edgeinfer";
constexpr int kLeastMinor = 20;

// Statuses: the first functions that are needed, since they say what is wrong with others. Null when they work.
const char *try_statuses(const ort::Functions &f) {
    OrtStatus *status = f.CreateStatus(ort::kInvalidArgument, "edgeinfer");
    if (status == nullptr) return "no status can be made";
    const bool same = f.GetErrorCode(status) == ort::kInvalidArgument && std::strcmp(f.GetErrorMessage(status), "edgeinfer") == 0;
    f.ReleaseStatus(status);
    return same ? nullptr : "a status is not what it was made of";
}

bool succeeded(const ort::Functions &f, OrtStatus *status) {
    if (status == nullptr) return true;
    f.ReleaseStatus(status);
    return false;
}

bool tensor_is_as_made(const ort::Functions &f, OrtValue *value, const float *data) {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    void *found = nullptr;
    int64_t shape[2] = {};
    size_t n = 0;
    int type = 0;
    if (!succeeded(f, f.GetTensorMutableData(value, &found)) || !succeeded(f, f.GetTensorTypeAndShape(value, &info))) return false;
    const bool read = succeeded(f, f.GetTensorElementType(info, &type)) && succeeded(f, f.GetDimensionsCount(info, &n)) && n == 2 &&
                      succeeded(f, f.GetDimensions(info, shape, n));
    f.ReleaseTensorTypeAndShapeInfo(info);
    return read && found == data && type == ort::kFloat && shape[0] == 3 && shape[1] == 5;
}

// A tensor around memory of ours, and what is told of it. Null when all is well.
const char *try_tensors(const ort::Functions &f) {
    float data[15] = {};
    const int64_t shape[2] = {3, 5};
    OrtMemoryInfo *memory = nullptr;
    OrtValue *value = nullptr;
    if (!succeeded(f, f.CreateCpuMemoryInfo(ort::kDeviceAllocator, ort::kDefaultMemory, &memory))) return "no tensor can be made";
    const bool made = succeeded(f, f.CreateTensorWithDataAsOrtValue(memory, data, sizeof data, shape, 2, ort::kFloat, &value));
    const bool same = made && tensor_is_as_made(f, value, data);
    if (value != nullptr) f.ReleaseValue(value);
    f.ReleaseMemoryInfo(memory);
    return same ? nullptr : "a tensor is not what it was made of";
}

// Reads the table and tries it. Null when g_ort is ready, or why not; *f has what is needed to say so, or a null CreateStatus.
const char *prepare(const OrtApiBase *base, ort::Functions *f, char *message, size_t n) {
    const char *const version = base->GetVersionString();
    char *end = nullptr;
    const long major = std::strtol(version, &end, 10), minor = *end == '.' ? std::strtol(end + 1, nullptr, 10) : -1;
    const void *const *table = nullptr;
    if (major == 1 && minor >= kLeastMinor) table = reinterpret_cast<const void *const *>(base->GetApi(ort::kApiVersion));
    if (table == nullptr) {
        // A status can be made all the same: versions since the first have it in the same place.
        table = reinterpret_cast<const void *const *>(base->GetApi(1));
        if (table != nullptr) std::memcpy(&f->CreateStatus, table, sizeof *table);
        std::snprintf(message, n, "edgeinfer: our operators are written for ONNX Runtime 1.%d or later, not %s", kLeastMinor, version);
        return message;
    }
#define EI_ORT(slot, result, name, arguments) std::memcpy(&f->name, table + slot, sizeof *table);
    EI_ORT_SLOTS(EI_ORT)
#undef EI_ORT
    const char *why = try_statuses(*f);
    if (why == nullptr) why = try_tensors(*f);
    if (why == nullptr) return nullptr;
    std::snprintf(message, n, "edgeinfer: ONNX Runtime %s is not as our operators were written for: %s", version, why);
    return message;
}

// The domain with our operators; it lives as long as the process, for sessions do not say when they no longer need it.
OrtStatus *make_domain(OrtCustomOpDomain **domain) {
    EI_TRY(g_ort.CreateCustomOpDomain(kDomain, domain));
    for (const Operator *op : {multiply_operator(), normalize_operator(), gate_operator(), attention_operator()}) {
        EI_TRY(g_ort.CustomOpDomain_Add(*domain, op));
    }
    return nullptr;
}

}  // namespace
}  // namespace ei

extern "C" {

// Not to be called by two threads at once.
EI_API OrtStatus *EI_ORT_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    using namespace ei;
    static const OrtApi *known = nullptr;
    static OrtCustomOpDomain *domain = nullptr;
    char message[160];
    ort::Functions found{};
    if (const char *why = prepare(base, &found, message, sizeof message)) {
        return found.CreateStatus ? found.CreateStatus(ort::kFail, why) : nullptr;
    }
    const OrtApi *const api = base->GetApi(ort::kApiVersion);
    if (known != nullptr && known != api) {
        return found.CreateStatus(ort::kFail, "edgeinfer: another ONNX Runtime of this process has our operators");
    }
    if (known == nullptr) {
        g_ort = found;
        EI_TRY(make_domain(&domain));
        known = api;
    }
    return g_ort.AddCustomOpDomain(options, domain);
}

}  // extern "C"
