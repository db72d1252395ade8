// Any script of half-closes, resets, slow readers and commands against the sockets of a UringReactor
// (tests/support/network_script.h). The kernel decides when things happen, so a finding may need a few runs.
#include "tests/support/network_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pando::RunNetworkScript({data, size});
  return 0;
}
