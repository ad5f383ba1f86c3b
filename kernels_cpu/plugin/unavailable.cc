// Systems where ggml's functions are not exported, or classes are laid out differently.
#include "edgeinfer_kernels.h"

extern "C" const char *ei_ggml_install(ei_resolve_symbol) { return "on Windows llama.cpp cannot take our kernels yet"; }

extern "C" void ei_ggml_pack(int32_t) {}

extern "C" void ei_ggml_load(ei_packed_load *) {}

extern "C" void ei_ggml_collect(const ei_collection *) {}
