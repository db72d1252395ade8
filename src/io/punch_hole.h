// PunchHole: gives the space of a part of a file back to the file system.
//
// Threads: the file's reactor.
#pragma once

#include "src/io/file.h"

namespace pando {

// The bytes then read as zeros, and the file's size stays. Whole blocks only. kUnsupported: this file system does not
// take space back.
Task<Status> PunchHole(File* file, uint64_t offset, uint64_t bytes);

}  // namespace pando
