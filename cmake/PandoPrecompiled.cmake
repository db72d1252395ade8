# Precompiled headers: those of the standard library, of glog and fmt, and of what all tests or all tools use. They are
# compiled once per kind (src, test, tool) and build tree. Pando's own headers are left out, so that changing one of
# them does not rebuild everything. Only g++ uses them: clang builds are for checks, which each read every header.
#   pando_precompile(<target> <kind>)
option(PANDO_PRECOMPILE "Precompile the headers of libraries (g++ only)" ON)

set(PANDO_HEADERS_src <algorithm> <array> <atomic> <chrono> <coroutine> <cstdint> <cstring> <deque> <functional> <map>
    <memory> <mutex> <optional> <ostream> <set> <span> <string> <string_view> <unordered_map> <utility> <variant>
    <vector> <fmt/format.h> <glog/logging.h>)
set(PANDO_HEADERS_test ${PANDO_HEADERS_src} <gmock/gmock.h> <gtest/gtest.h>)
# Not CLI/CLI.hpp: whoever includes it compiles most of it again, which takes six seconds, and one file needs it.
set(PANDO_HEADERS_tool ${PANDO_HEADERS_src} <nlohmann/json.hpp>)
set(PANDO_LIBRARIES_src fmt::fmt PkgConfig::GLOG)
set(PANDO_LIBRARIES_test fmt::fmt PkgConfig::GLOG GTest::gmock)
set(PANDO_LIBRARIES_tool fmt::fmt PkgConfig::GLOG nlohmann_json::nlohmann_json)

function(pando_precompile target kind)
  if(NOT PANDO_PRECOMPILE OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    return()
  endif()
  set(holder pando_precompiled_${kind})
  if(NOT TARGET ${holder})
    file(WRITE ${CMAKE_BINARY_DIR}/precompiled/empty.cc "")
    add_library(${holder} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/precompiled/empty.cc)
    target_link_libraries(${holder} PRIVATE ${PANDO_LIBRARIES_${kind}})
    target_precompile_headers(${holder} PRIVATE ${PANDO_HEADERS_${kind}})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${holder})
endfunction()
