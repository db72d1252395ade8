#include "src/wal/batch_chain.h"

namespace pando {

std::string BatchChain::Accept(const BatchHeader& header, LogPosition end) {
  const LogPosition expected = in_group_ ? group_previous_end_ : last_end_;
  if ((started_ || in_group_) && header.previous_end != expected) {
    return fmt::format("the batch says that the log before it ends at position {:#x}, but it ends at {:#x}",
                       header.previous_end, expected);
  }
  if (header.record_count > 0) {
    auto [at, is_new] = partitions_.try_emplace(header.partition);
    Partition& last = at->second;
    if ((header.flags & kBatchStartsStream) == 0 && !is_new) {
      if (header.first_lsn != last.last_lsn + 1) {
        return fmt::format("partition {}: the batch starts at LSN {}, but the last LSN before it is {}",
                           header.partition.ToString(), header.first_lsn, last.last_lsn);
      }
      if (header.previous_checksum != last.checksum) {
        return fmt::format(
            "partition {}: the batch at LSN {} does not match the checksum of the partition's previous batch",
            header.partition.ToString(), header.first_lsn);
      }
    }
    last = {header.first_lsn + header.record_count - 1, header.checksum};
    records_end_ = end;
  }
  started_ = true;
  group_previous_end_ = header.previous_end;
  last_end_ = end;
  in_group_ = (header.flags & kBatchEndsGroup) == 0;
  return "";
}

}  // namespace pando
