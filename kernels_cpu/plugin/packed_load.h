// One load of a model as the plug-in sees it: which weights are packed where, and which of them lie packed in a file already.
#ifndef EI_PLUGIN_PACKED_LOAD_H
#define EI_PLUGIN_PACKED_LOAD_H

#include "plugin/library.h"

namespace ei {

// This thread is in a load that has an image.
bool has_image();

// What a buffer of n_bytes for the load that this thread is in is made of: a mapping of its image, or null where there is none that fits.
// The mapping is private, so that what is written to it stays in this process, and aligned to pages.
void *map_image(size_t n_bytes);
void unmap_image(void *base, size_t n_bytes);

// The load has this buffer now, after those it had before.
void note_buffer(void *base, size_t n_bytes, bool mapped);

// The weight is about to be packed to weight->data. True where the image put the very same bytes there: then there is nothing to do.
bool note_weight(const ggml::Tensor *weight, size_t packed_bytes);

}  // namespace ei
#endif
