// What this process uses of its machine. Blocking, for control work only.
//
// Threads: any.
#pragma once

#include <cstdint>

namespace pando {

uint64_t ResidentBytes();  // 0 when /proc does not say
int UsableCpus();          // CPUs this process may run on

// Raises the soft limit of open descriptors to the hard one, and returns what is then allowed.
uint64_t RaiseDescriptorLimit();

}  // namespace pando
