// Replica: what it does as one replica of several (GatedPartition).
#include "src/partition/replica.h"

namespace pando {

HistoryPoint Replica::end() const { LOG(FATAL) << "CG3: not there yet"; }
HistoryPoint Replica::durable() const { LOG(FATAL) << "CG3: not there yet"; }
std::optional<HistoryPoint> Replica::PointAt(Lsn lsn) const { LOG(FATAL) << "CG3: not there yet: " << lsn; }
HistoryPoint Replica::EpochEnd(Epoch epoch) const { LOG(FATAL) << "CG3: not there yet: " << epoch; }
Task<Result<LogSpace>> Replica::WaitForRoom(size_t unit_bytes, Nanos deadline_ns) {
  CO_RETURN_IF_ERROR(state_.Refusal());
  const ActiveCall call(&state_);
  co_return co_await state_.log->WaitForSpace(state_.stream, unit_bytes, deadline_ns);
}
Status Replica::AppendUnit(const WriteUnit& unit) { LOG(FATAL) << "CG3: not there yet: " << unit.first_lsn; }
void Replica::Supersede(const HistoryPoint& after) { LOG(FATAL) << "CG3: not there yet: " << after.lsn; }
Result<std::unique_ptr<LiveReader>> Replica::OpenReader(const HistoryPoint& after) {
  return state_.log->OpenReader(state_.stream, after, 0);
}

}  // namespace pando
