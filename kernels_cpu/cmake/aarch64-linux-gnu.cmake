# Toolchain: from any Debian-like machine to 64-bit ARM, with programs that qemu-user runs (tools/cross_test.py). Static, because the
# emulated programs would otherwise look for the host's libraries. QEMU_CPU in the environment says which processor is emulated.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
