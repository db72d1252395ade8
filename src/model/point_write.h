// PointWrite: a write of one operation that runs without a coroutine. It is to Partition::Write what
// PointRead is to Partition::Get: the same thing, for the case that nothing has to be waited for but
// the log.
//
// Threads: that of the partition.
//
// Invariants
//   PW1  A write that was begun is done exactly once, after the call that began it.
#pragma once

#include "src/model/types.h"

namespace pando {

class PointWrite {
 public:
  // -- set by the caller, and left alone until the write is done
  class Partition* partition = nullptr;
  WriteOp op;
  const WriteOp* once = nullptr;  // a kOnce that precedes it; outlives the write
  ValueRoom* values = nullptr;    // room for the value that is returned; null = up to kMaxBatchBytes
  // If it is set, the write does not begin once it was withdrawn (P7).
  WriteControl* control = nullptr;
  WriteLevel level = WriteLevel::kQuorum;  // with another one, it does not begin
  Epoch seen_epoch = 0;                    // WriteOptions::seen_epoch
  Version seen_version = 0;                // WriteOptions::seen_version

  // -- set by Engine::BatchWrite
  // False: something has to be waited for, or the write will be refused. Nothing was done, and `op`
  // is as it was: co_await partition->Write.
  bool begun = false;

  // -- set when a write that was begun is done; see Partition::Write
  Status status;
  OpResult result;
  SessionPoint end;  // where the write ends, if it has succeeded
  // The write is done. Must not call the partition. The partition does not use the object any more.
  virtual void OnDone() = 0;

 protected:
  ~PointWrite() = default;
};

}  // namespace pando
