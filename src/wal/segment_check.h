// CheckSegment: rereads the durable part of one segment of a running log and verifies it as
// recovery would: the header, every batch, and the chain of batches. Otherwise only the next start
// would find the damage.
//
// Threads: one reactor. Memory: one window of 512 KiB, or the largest batch.
#pragma once

#include <functional>
#include <string>

#include "src/io/file.h"
#include "src/wal/batch_chain.h"
#include "src/wal/log.h"

namespace pando {

struct SegmentVerdict {
  bool stopped = false;  // `may_read` returned false
  bool damaged = false;  // the segment was not checked beyond the damage
  uint64_t offset = 0;   // of the damage
  std::string what;
  uint64_t batches = 0;
};

// `chain` is the chain of the previous segment, or a new one. `may_read(bytes)` is awaited before
// each read, and false stops the check. A segment that is recycled during the check looks damaged,
// so ask Log::IsLive afterwards.
Task<SegmentVerdict> CheckSegment(DurableSegment segment, Uuid node, BatchChain* chain,
                                  std::function<Task<bool>(uint64_t)> may_read);

}  // namespace pando
