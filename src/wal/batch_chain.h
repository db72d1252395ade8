// BatchChain: verifies that successive batches form a log: every group states where the previous
// group ended, and every batch the checksum of the one before it (docs/FORMAT.md, "Reading"). The
// caller has already verified each batch by itself. StreamHistory verifies what the batches carry.
//
// Threads: plain data.
#pragma once

#include <string>

#include "src/wal/log_format.h"

namespace pando {

class BatchChain {
 public:
  // Accepts the next batch, which ends at `end`. Returns "" or a description of what is wrong with
  // the batch; in that case the chain has not changed.
  std::string Accept(const BatchHeader& header, LogPosition end);
  // The next batch is in another segment. A group that is not complete is abandoned.
  void EndGroup() { in_group_ = false; }

  bool in_group() const { return in_group_; }                // the last batch did not end its group
  LogPosition last_end() const { return last_end_; }         // of the last batch; 0 = none
  LogPosition records_end() const { return records_end_; }   // of the last with records; 0 = none
  uint64_t last_checksum() const { return last_checksum_; }  // of the last batch; 0 = not known

 private:
  bool started_ = false;  // false: accept any previous_end, since older segments were recycled
  bool in_group_ = false;
  LogPosition group_previous_end_ = 0;
  LogPosition last_end_ = 0, records_end_ = 0;
  uint64_t last_checksum_ = 0;
};

}  // namespace pando
