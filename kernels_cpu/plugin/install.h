// Taking over ggml's first extra buffer type, and giving it back.
#ifndef EI_PLUGIN_INSTALL_H
#define EI_PLUGIN_INSTALL_H

#include "plugin/library.h"

namespace ei {

// The buffer type that is ours now, or null.
ggml::BufferType *hooked_buffer_type();

// Whether weights that this thread loads from here on are in company of less than 8 bits; see ei_ggml_pack.
void expect_weights(bool coarse);

// Null when all is well, or why not. Leaves nothing behind.
const char *check_structures();
const char *self_test();

}  // namespace ei
#endif
