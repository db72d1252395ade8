#include "src/wal/batch_chain.h"

namespace pando {

std::string BatchChain::Accept(const BatchHeader& header, LogPosition end) {
  const LogPosition expected = in_group_ ? group_previous_end_ : last_end_;
  if ((started_ || in_group_) && header.previous_end != expected) {
    return fmt::format("the batch says that the log before it ends at position {:#x}, but it ends at {:#x}",
                       header.previous_end, expected);
  }
  // A batch of an old format states the checksum of its partition's last batch instead.
  const bool chained = HasUnits(header) && header.previous_checksum != 0 && last_checksum_ != 0;
  if (chained && header.previous_checksum != last_checksum_)
    return "the batch does not match the checksum of the one before it";
  if (header.record_count > 0) records_end_ = end;
  started_ = true;
  group_previous_end_ = header.previous_end;
  last_end_ = end;
  last_checksum_ = HasUnits(header) ? header.checksum : 0;
  in_group_ = (header.flags & kBatchEndsGroup) == 0;
  return "";
}

}  // namespace pando
