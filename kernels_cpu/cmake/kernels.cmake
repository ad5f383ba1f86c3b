# How kernels are compiled: the architecture, the flags of each instruction set, and the list that core/kernel_table.cc is built from.

check_cxx_source_compiles("#if !defined(__x86_64__) && !defined(_M_X64)
#error
#endif
int main() { return 0; }" EI_TARGET_X86_64)
check_cxx_source_compiles("#if !defined(__aarch64__) && !defined(_M_ARM64)
#error
#endif
int main() { return 0; }" EI_TARGET_AARCH64)
list(LENGTH CMAKE_OSX_ARCHITECTURES ei_n_architectures)
if(ei_n_architectures GREATER 1)
  message(FATAL_ERROR "build one architecture at a time, not ${CMAKE_OSX_ARCHITECTURES}, and join them with lipo")
endif()
if(EI_TARGET_X86_64)
  set(EI_ARCH x86_64)
elseif(EI_TARGET_AARCH64)
  set(EI_ARCH aarch64)
else()
  set(EI_ARCH other)
endif()

# The scalar files are the reference: they stay what they say, so that a kernel is compared with something simple. Contracting a*b+c
# into one rounding would make results depend on the compiler, so every fused multiply-add is written out.
if(MSVC)
  set(EI_FLAGS_common /W4 /EHs-c- /GR- /fp:precise)
  set(EI_FLAGS_scalar "")
  set(EI_FLAGS_avx2 /arch:AVX2)
  set(EI_FLAGS_avxvnni /arch:AVX2)
  set(EI_FLAGS_avx512vnni /arch:AVX512)
  set(EI_FLAGS_neon "")
  set(EI_FLAGS_neon_dotprod "")
  set(EI_FLAGS_neon_i8mm "")
else()
  set(EI_FLAGS_common -Wall -Wextra -fno-exceptions -fno-rtti -fno-strict-aliasing -ffp-contract=off -fno-math-errno)
  set(EI_FLAGS_scalar -fno-tree-vectorize -fno-tree-slp-vectorize)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    set(EI_FLAGS_scalar -fno-vectorize -fno-slp-vectorize)
  endif()
  set(EI_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(EI_FLAGS_avxvnni -mavx2 -mfma -mf16c -mavxvnni)
  # GCC 12 warns of its own header (bug 105593).
  set(EI_FLAGS_avx512vnni -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND EI_FLAGS_avx512vnni -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  # Of vectors that the compiler makes; those that are written out are as wide as they say.
  set(EI_WIDE_avx512vnni -mprefer-vector-width=512)
  # GCC's scheduling before register allocation would pull loads up until a third of the sums are spilled.
  set(EI_FLAGS_neon "")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(EI_FLAGS_neon -fno-schedule-insns)
  endif()
  set(EI_FLAGS_neon_dotprod ${EI_FLAGS_neon} -march=armv8.2-a+dotprod)
  set(EI_FLAGS_neon_i8mm ${EI_FLAGS_neon} -march=armv8.2-a+dotprod+i8mm)
endif()

# An instruction set is built where it belongs to the target and the compiler knows it; a compiler that is too old builds the others.
set(EI_ISAS scalar)
if(EI_ARCH STREQUAL "x86_64")
  set(ei_candidates avx2 avxvnni avx512vnni)
elseif(EI_ARCH STREQUAL "aarch64")
  set(ei_candidates neon neon_dotprod neon_i8mm)
else()
  set(ei_candidates "")
endif()
foreach(isa ${ei_candidates})
  if(MSVC)
    list(APPEND EI_ISAS ${isa})
  else()
    string(REPLACE ";" " " flags "${EI_FLAGS_${isa}}")
    check_cxx_compiler_flag("${flags}" EI_COMPILES_${isa})
    if(EI_COMPILES_${isa})
      list(APPEND EI_ISAS ${isa})
    endif()
  endif()
endforeach()
message(STATUS "edgeinfer kernels for ${EI_ARCH}: ${EI_ISAS}")

set(EI_SOURCES "")
set(EI_KERNEL_LIST "")

# ei_sources(FILE...): plain files of the library, compiled for the baseline of the architecture.
function(ei_sources)
  set(EI_SOURCES ${EI_SOURCES} ${ARGN} PARENT_SCOPE)
endfunction()

# ei_kernel(OP FORMAT ISA): the file OP/OP_FORMAT_ISA.cc, which defines the table entry of that name. Skipped where ISA is not built.
function(ei_kernel op format isa)
  if(NOT isa IN_LIST EI_ISAS)
    return()
  endif()
  set(source ${op}/${op}_${format}_${isa}.cc)
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${EI_FLAGS_${isa}}")
  set(EI_SOURCES ${EI_SOURCES} ${source} PARENT_SCOPE)
  set(EI_KERNEL_LIST "${EI_KERNEL_LIST}EI_KERNEL(${op}, ${format}, ${isa})\n" PARENT_SCOPE)
endfunction()

# ei_codec(FORMAT): the file codec/codec_FORMAT.cc, for the baseline and once more for each kind of wider vectors: the bits are the same.
function(ei_codec format)
  set(source codec/codec_${format}.cc)
  if(NOT MSVC)
    # Same results; but only so does GCC make vectors of a comparison.
    set(flags -fno-trapping-math)
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
  set(EI_SOURCES ${EI_SOURCES} ${source})
  foreach(isa avx2 avx512vnni)
    if(isa IN_LIST EI_ISAS)
      set(wider ${CMAKE_CURRENT_BINARY_DIR}/generated/codec_${format}_${isa}.cc)
      file(CONFIGURE OUTPUT ${wider} CONTENT "#define EI_CODEC_ISA ${isa}\n#include \"codec/codec_${format}.cc\"\n" @ONLY)
      set_source_files_properties(${wider} PROPERTIES COMPILE_OPTIONS "${flags};${EI_FLAGS_${isa}};${EI_WIDE_${isa}}")
      string(TOUPPER EI_CODEC_${isa} built)
      set_property(SOURCE codec/codec.cc APPEND PROPERTY COMPILE_DEFINITIONS ${built})
      set(EI_SOURCES ${EI_SOURCES} ${wider})
    endif()
  endforeach()
  set(EI_SOURCES ${EI_SOURCES} PARENT_SCOPE)
endfunction()

# ei_library(NAME): the shared library, from an object library NAME_objects that tests can link to as well.
function(ei_library name)
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/generated/kernel_list.inc CONTENT "${EI_KERNEL_LIST}" @ONLY)
  add_library(${name}_objects OBJECT ${EI_SOURCES})
  target_include_directories(${name}_objects PUBLIC ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/include
                                                    PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
  target_compile_options(${name}_objects PRIVATE ${EI_FLAGS_common})
  target_compile_definitions(${name}_objects PRIVATE EI_BUILDING EI_VERSION="${PROJECT_VERSION}")
  add_library(${name} SHARED $<TARGET_OBJECTS:${name}_objects>)
  if(EDGEINFER_KERNELS_SANITIZE)
    # Optimized and unrolled, the tiles with all their checks take minutes a file.
    target_compile_options(${name}_objects PUBLIC -O1 -DEI_KEEP_LOOPS -fsanitize=${EDGEINFER_KERNELS_SANITIZE} -fno-sanitize-recover=all -g)
    target_link_options(${name}_objects PUBLIC -fsanitize=${EDGEINFER_KERNELS_SANITIZE})
    target_link_options(${name} PRIVATE -fsanitize=${EDGEINFER_KERNELS_SANITIZE})
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # Only what the library itself uses of the C++ runtime travels with it, so that an old system's does.
    target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,--no-undefined)
  endif()
endfunction()
