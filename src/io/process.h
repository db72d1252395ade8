// What this process uses of its machine. Blocking, for control work only.
//
// Threads: any.
#pragma once

#include <cstdint>

namespace pando {

uint64_t ResidentBytes();  // 0 when /proc does not say
int UsableCpus();          // CPUs this process may run on

}  // namespace pando
