# Compiler options. Warnings are errors. Sanitizers and ccache are enabled here and nowhere else.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
                    -Werror -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports false positives from inlined std::string and coroutine frames under these two.
  add_compile_options(-Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-restrict -Wno-array-bounds)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options(-Werror=unused-result)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  # Pando's servers have AVX2: x86-64-v3 covers every server CPU since 2015. To build for older CPUs, set
  # PANDO_MARCH.
  set(PANDO_MARCH "x86-64-v3" CACHE STRING "-march for release builds")
  add_compile_options(-O2 -g1 -march=${PANDO_MARCH})
endif()
if(PANDO_SANITIZE)
  add_compile_options(-fsanitize=${PANDO_SANITIZE} -fno-sanitize-recover=all)
  # Thrift's readers cast a byte from the wire to TType before they check it. Pando's own enums have a fixed
  # underlying type, to which this check does not apply.
  add_compile_options(-fno-sanitize=enum)
  # These two take a third of the compile time. A null pointer that is used crashes at once without a check too.
  add_compile_options(-fno-sanitize=null,vptr)
  add_link_options(-fsanitize=${PANDO_SANITIZE})
  add_compile_definitions(PANDO_SANITIZED=1)
endif()
if(PANDO_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # the libraries report coverage; tests/fuzz links the driver
  add_compile_options(-fno-sanitize=function)     # clang 14 cannot emit it for coroutines together with coverage
endif()
find_program(PANDO_CCACHE ccache)
if(PANDO_CCACHE)
  # ccache takes a file that uses a precompiled header only if it may ignore macros like __TIME__ there.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${PANDO_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
find_program(PANDO_LLD ld.lld)
if(PANDO_LLD)
  add_link_options(-fuse-ld=lld)
endif()
