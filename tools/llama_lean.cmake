# Read by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE, set by bootstrap.py).
# llama-cpp-python forces LLAMA_BUILD_COMMON on in the cache although its wheel loads only libllama and ggml;
# a plain variable of the project's scope takes precedence over the cache.
set(LLAMA_BUILD_COMMON OFF)
