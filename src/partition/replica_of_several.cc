// Replica: what it does as one replica of several (GatedPartition).
#include "src/partition/replica.h"

namespace pando {

HistoryPoint Replica::durable() const {
  const std::optional<HistoryPoint> point = state_.history.At(state_.durable_lsn);
  CHECK(point) << "UH1: partition " << id() << " does not know the unit that ends at LSN " << state_.durable_lsn;
  return *point;
}

std::optional<HistoryPoint> Replica::PointAt(Lsn lsn) const {
  std::optional<HistoryPoint> point = state_.history.At(lsn);
  if (point || !state_.file) return point;
  const Superblock& sb = state_.file->superblock();
  if (lsn == sb.checkpoint_lsn) return HistoryPoint{sb.epoch, sb.checkpoint_lsn, sb.chain};
  return std::nullopt;
}

Task<Result<LogSpace>> Replica::WaitForRoom(size_t unit_bytes, Nanos deadline_ns) {
  CO_RETURN_IF_ERROR(state_.Refusal());
  const ActiveCall call(&state_);
  co_return co_await state_.log->WaitForSpace(state_.stream, unit_bytes, deadline_ns);
}

Result<std::unique_ptr<LiveReader>> Replica::OpenReader(const HistoryPoint& after) {
  RETURN_IF_ERROR(state_.Refusal());
  return state_.log->OpenReader(state_.stream, after, reader_retained_bytes_);
}

}  // namespace pando
