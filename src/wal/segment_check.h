// CheckSegment: reads again what a running log holds durable in one segment, and verifies it as recovery would:
// header, every batch, and that they follow each other. Damage there is otherwise found only by the next start.
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
  bool stopped = false;  // `may_read` said no
  bool damaged = false;  // what is behind the damage was not looked at
  uint64_t offset = 0;   // of the damage
  std::string what;
  uint64_t batches = 0;
};

// `chain` is that of the segment before, or a new one. `may_read(bytes)` is asked before each read. A segment that is
// recycled meanwhile looks damaged: ask Log::IsLive afterwards.
Task<SegmentVerdict> CheckSegment(DurableSegment segment, Uuid node, BatchChain* chain,
                                  std::function<Task<bool>(uint64_t)> may_read);

}  // namespace pando
