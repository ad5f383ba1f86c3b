#include "plugin/packed_load.h"

#include <sys/mman.h>

#include <cstring>

#include "edgeinfer_kernels.h"

namespace ei {
namespace {

// What the caller of ei_ggml_load wants to know of this thread's load; null outside of one.
thread_local ei_packed_load *t_load = nullptr;

// The load's buffer that holds `data`, or -1.
int32_t buffer_of(const ei_packed_load &load, const void *data) {
    const char *const at = static_cast<const char *>(data);
    for (int32_t i = 0; i < load.n_buffers && i < load.most_buffers; ++i) {
        const char *const base = static_cast<const char *>(load.buffers[i].base);
        if (base <= at && at < base + load.buffers[i].n_bytes) return i;
    }
    return -1;
}

bool same(const ei_packed_tensor &a, const ei_packed_tensor &b) {
    return std::strncmp(a.name, b.name, sizeof a.name) == 0 && a.type == b.type && a.buffer == b.buffer && a.offset == b.offset &&
           a.n_bytes == b.n_bytes && std::memcmp(a.shape, b.shape, sizeof a.shape) == 0;
}

}  // namespace

bool has_image() { return t_load != nullptr && t_load->n_image_buffers > 0; }

void *map_image(size_t n_bytes) {
    if (t_load == nullptr || t_load->n_buffers >= t_load->n_image_buffers) return nullptr;
    const ei_packed_buffer &image = t_load->image_buffers[t_load->n_buffers];
    if (image.n_bytes != n_bytes || n_bytes == 0) return nullptr;
    void *const base = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, t_load->image_file, static_cast<off_t>(image.file_offset));
    return base == MAP_FAILED ? nullptr : base;
}

void unmap_image(void *base, size_t n_bytes) { munmap(base, n_bytes); }

void note_buffer(void *base, size_t n_bytes, bool mapped) {
    if (t_load == nullptr) return;
    if (t_load->n_buffers < t_load->most_buffers) t_load->buffers[t_load->n_buffers] = {base, n_bytes, 0, mapped};
    ++t_load->n_buffers;
}

bool note_weight(const ggml::Tensor *weight, size_t packed_bytes) {
    if (t_load == nullptr) return false;
    ei_packed_tensor found{};
    std::memcpy(found.name, weight->name, sizeof found.name);
    found.type = weight->type, found.buffer = buffer_of(*t_load, weight->data), found.n_bytes = packed_bytes;
    for (int i = 0; i < 3; ++i) found.shape[i] = weight->ne[i];
    if (found.buffer >= 0) {
        ei_packed_buffer &buffer = t_load->buffers[found.buffer];
        found.offset = static_cast<uint64_t>(static_cast<const char *>(weight->data) - static_cast<const char *>(buffer.base));
    }
    // Weights of a file come in the same order each time, so the image has this one in the same place or does not have it.
    const int64_t at = t_load->n_tensors++;
    if (at < t_load->most_tensors) t_load->tensors[at] = found;
    const bool mapped = found.buffer >= 0 && t_load->buffers[found.buffer].mapped;
    if (!mapped || at >= t_load->n_image_tensors || !same(t_load->image_tensors[at], found)) return false;
    ++t_load->n_found;
    return true;
}

}  // namespace ei

extern "C" void ei_ggml_load(ei_packed_load *load) { ei::t_load = load; }
