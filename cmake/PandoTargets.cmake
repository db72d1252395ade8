# Functions that define targets:
#   pando_library(<layer> <deps...>)      a static library from the .cc files of the calling folder, except main.cc
#   pando_tool(<name> <deps...>)          a binary in bin/ from all .cc files of the calling folder
#   pando_test(<name> LABELS <labels> DEPS <deps> SOURCES <files> [TIMEOUT <seconds>])
#                                         a GoogleTest binary with one ctest entry
#   pando_tests_of_kind(<kind>), pando_unit_test(<name>)   see below
include(GoogleTest)

function(pando_library layer)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  if(NOT sources)  # headers only
    add_library(pando_${layer} INTERFACE)
    target_include_directories(pando_${layer} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(pando_${layer} INTERFACE ${ARGN})
    return()
  endif()
  add_library(pando_${layer} STATIC ${sources})
  target_include_directories(pando_${layer} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(pando_${layer} PUBLIC ${ARGN})
  pando_precompile(pando_${layer} src)
endfunction()

# Makes every basic block of the library call a function by which tests/sim/turns_test.cc counts work. Only in builds
# with AddressSanitizer (src/base/count_work.cc), and only with g++: clang's builds are for fuzzing, which has its own.
function(pando_count_work layer)
  if("${PANDO_SANITIZE}" MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(pando_${layer} PRIVATE -fsanitize-coverage=trace-pc)
  endif()
endfunction()

function(pando_tool name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()

# UndefinedBehaviorSanitizer would take a third of the compile time of a test. It checks src/, not the tests' own code.
function(pando_only_address_sanitizer target)
  if("${PANDO_SANITIZE}" MATCHES "undefined")
    target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
  endif()
endfunction()

function(pando_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "LABELS;DEPS;SOURCES" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 900)
  endif()
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE ${T_DEPS} GTest::gmock GTest::gtest_main)
  pando_precompile(${name} test)
  pando_only_address_sanitizer(${name})
  add_test(NAME ${name} COMMAND ${name} --gtest_brief=1 WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT})
endfunction()

# Builds every X_test.cc of the calling folder (tests/<kind>) as a binary <kind>_X, linked with every layer.
function(pando_tests_of_kind kind)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME)
    string(REGEX REPLACE "_test\\.cc$" "" name ${name})
    pando_test(${kind}_${name} LABELS ${kind} TIMEOUT 1500 DEPS ${PANDO_LAYERS} pando_test_support SOURCES ${source})
  endforeach()
endfunction()

# Builds unit_<name> from tests/unit/<name>/*_test.cc, if such files and the library pando_<name> exist. Further
# arguments are libraries that its tests need in addition.
function(pando_unit_test name)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/unit/${name}/*_test.cc)
  if(sources AND TARGET pando_${name})
    pando_test(unit_${name} LABELS unit DEPS pando_${name} ${ARGN} pando_test_support SOURCES ${sources})
  endif()
endfunction()
