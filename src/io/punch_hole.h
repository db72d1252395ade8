// PunchHole returns the disk space of part of a file to the file system.
//
// Threads: the file's reactor.
#pragma once

#include "src/io/file.h"

namespace pando {

// After this the bytes read as zeros; the file's size does not change. `offset` and `bytes` must be
// multiples of the block size. Returns kUnsupported when the file system cannot punch holes.
Task<Status> PunchHole(File* file, uint64_t offset, uint64_t bytes);

}  // namespace pando
