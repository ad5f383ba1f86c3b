// Taking over ggml's first extra buffer type, and giving it back.
#ifndef EI_PLUGIN_INSTALL_H
#define EI_PLUGIN_INSTALL_H

#include "plugin/library.h"

namespace ei {

// The buffer type that is ours now, or null.
ggml::BufferType *hooked_buffer_type();

// Null when all is well, or why not. Leaves nothing behind.
const char *check_structures();
const char *self_test();

}  // namespace ei
#endif
