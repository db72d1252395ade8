# Warnings are errors; sanitizers and ccache are switched on here and nowhere else.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
                    -Werror -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports false positives from inlined std::string and coroutine frames under these two.
  add_compile_options(-Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-restrict -Wno-array-bounds)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options(-Werror=unused-result)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  # The fleet Pando runs on has AVX2 (x86-64-v3 is every server since 2015); a generic build is one flag away.
  set(PANDO_MARCH "x86-64-v3" CACHE STRING "-march for release builds")
  add_compile_options(-O2 -g1 -march=${PANDO_MARCH})
endif()
if(PANDO_SANITIZE)
  add_compile_options(-fsanitize=${PANDO_SANITIZE} -fno-sanitize-recover=all)
  # Thrift's readers cast a byte off the wire to their TType before they look at it. Enums of our own have a fixed
  # underlying type, to which this check does not apply.
  add_compile_options(-fno-sanitize=enum)
  add_link_options(-fsanitize=${PANDO_SANITIZE})
  add_compile_definitions(PANDO_SANITIZED=1)
endif()
if(PANDO_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)  # coverage feedback from the libraries; tests/fuzz links the driver
  add_compile_options(-fno-sanitize=function)     # clang 14 cannot emit it for coroutines together with coverage
endif()
find_program(PANDO_CCACHE ccache)
if(PANDO_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PANDO_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${PANDO_CCACHE})
endif()
find_program(PANDO_LLD ld.lld)
if(PANDO_LLD)
  add_link_options(-fuse-ld=lld)
endif()
