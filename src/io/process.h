// Queries and sets resource limits of this process. These functions block, so they are for control
// work only.
//
// Threads: any.
#pragma once

#include <cstdint>

namespace pando {

uint64_t ResidentBytes();  // 0 if /proc cannot be read
// Time of processors that all threads of this process have used.
uint64_t CpuTimeNs();
int UsableCpus();  // the number of CPUs that this process may run on

// Raises the soft limit on open descriptors to the hard limit. Returns the limit that is then in
// effect.
uint64_t RaiseDescriptorLimit();

}  // namespace pando
