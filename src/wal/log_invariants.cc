// What log_impl.h promises about a log at rest between two turns, checked. Tests call it after every
// step.
#include "src/wal/log_impl.h"

namespace pando {

void LogImpl::CheckInvariants() const {
  uint64_t live_bytes = 0, live_records = 0, number = 0;
  for (const auto& segment : live_) {
    CHECK_GT(segment->number, number) << "W2: segments are out of order";
    number = segment->number;
    live_bytes += segment->counted_bytes;
    live_records += segment->counted_records;
  }
  CHECK_EQ(live_bytes, live_bytes_) << "bytes of live segments";
  CHECK_EQ(live_records, live_records_) << "records of live segments";
  LogPosition end = announced_end_;
  for (const auto& batch : batches_) {
    CHECK_GT(batch->end, end) << "W1: batches are out of order";
    end = batch->end;
  }
  if (failed()) return;
  uint64_t staged_bytes = 0, staged_records = 0;
  for (const LogStream* stream : staged_streams_) {
    CHECK(stream->queued && !stream->units.empty()) << "a stream without units is queued";
    for (const LogStream::Staged& staged : stream->units) {
      staged_bytes += staged.bytes();
      staged_records += staged.unit.record_count;
    }
  }
  CHECK_EQ(staged_bytes, staged_bytes_) << "staged bytes";
  CHECK_EQ(staged_records, staged_records_) << "staged records";
  for (const LogStream* stream : waiting_streams_) {
    CHECK(!stream->space_waiters.empty()) << "a stream without writers waits for space";
  }
}

}  // namespace pando
