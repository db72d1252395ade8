// BatchChain: what makes batches one after another a log: every group says where the one before it ended, and every
// partition's batches follow each other (docs/FORMAT.md, "Reading"). Each batch by itself must be intact already.
//
// Threads: plain data.
#pragma once

#include <string>
#include <unordered_map>

#include "src/wal/log_format.h"

namespace pando {

class BatchChain {
 public:
  // Takes the next batch, which ends at `end`: "", or what is wrong with it; then nothing has changed.
  std::string Accept(const BatchHeader& header, LogPosition end);
  // What follows is in another segment: a group that is not complete is left as it is.
  void EndGroup() { in_group_ = false; }

  bool in_group() const { return in_group_; }               // the last batch did not end its group
  LogPosition last_end() const { return last_end_; }        // of the last batch; 0: there is none
  LogPosition records_end() const { return records_end_; }  // of the last batch that has records; 0: there is none

 private:
  struct Partition {
    Lsn last_lsn = 0;
    uint64_t checksum = 0;
  };
  bool started_ = false;  // what came before the first group was recycled
  bool in_group_ = false;
  LogPosition group_previous_end_ = 0;
  LogPosition last_end_ = 0, records_end_ = 0;
  std::unordered_map<Uuid, Partition, UuidHash> partitions_;
};

}  // namespace pando
