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
  CHECK_LE(retained_segments_, live_.size()) << "retained segments";
  uint64_t retained_bytes = 0;
  for (size_t i = 0; i < retained_segments_; ++i) {
    retained_bytes += live_[i]->bytes;
    CHECK_EQ(live_[i]->counted_bytes, 0u) << "LR2: a segment that is kept for readers counts";
  }
  CHECK_EQ(retained_bytes, retained_bytes_) << "retained bytes";
  CHECK_LE(images_.size(), kMaxImages) << "LR3: images";
  size_t lagging = 0;
  for (const LiveReader* reader : readers_) lagging += reader->lagging_;
  CHECK_EQ(lagging, readers_lagging_) << "readers that lag";
  for (const auto& [partition, stream] : streams_) {
    const LogStream::Recent* before = nullptr;
    for (const LogStream::Recent& unit : stream->recent) {
      CHECK(!before || unit.first_lsn == before->end.lsn + 1) << "LR1: a gap between the units in memory";
      before = &unit;
    }
  }
  LogPosition end = announced_end_;
  for (const auto& batch : batches_) {
    CHECK_GT(batch->end, end) << "W1: batches are out of order";
    end = batch->end;
  }
  if (failed()) return;
  uint64_t staged_bytes = 0, staged_records = 0;
  for (const LogStream* stream : staged_streams_) {
    CHECK(stream->queued && !stream->units.empty()) << "a stream without units is queued";
    size_t cuts = 0;
    for (const LogStream::Staged& staged : stream->units) {
      staged_bytes += staged.bytes();
      staged_records += staged.records_and_cuts();
      cuts += staged.cut.has_value();
    }
    CHECK_LE(cuts, 1u) << "L14: a cut waits that another one has replaced";
  }
  CHECK_EQ(staged_bytes, staged_bytes_) << "staged bytes";
  CHECK_EQ(staged_records, staged_records_) << "staged records";
  for (const LogStream* stream : waiting_streams_) {
    CHECK(!stream->space_waiters.empty()) << "a stream without writers waits for space";
  }
}

}  // namespace pando
