// Fuzzes the sockets of a UringReactor with scripts of half-closes, resets, slow readers, and
// commands (tests/support/network_script.h). The kernel decides when things happen, so replaying a
// finding may take several runs.
#include "tests/support/network_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pando::RunNetworkScript({data, size});
  return 0;
}
