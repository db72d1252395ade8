// WritePipeline: writes of one operation that need no coroutine (PointWrite).
#include <utility>

#include "src/partition/write_pipeline.h"
#include "src/partition/write_record.h"

namespace pando {
namespace {

// Units that are kept for later writes, and how much memory each of them keeps.
constexpr size_t kMaxSpareUnits = 512;
constexpr size_t kMaxSpareBytes = 4u << 10;

// Of all partitions of the reactor, of which there may be thousands: at most 2 MiB.
std::vector<std::unique_ptr<PointUnit>>& SpareUnits() {
  thread_local std::vector<std::unique_ptr<PointUnit>> units;
  return units;
}

std::unique_ptr<PointUnit> TakePointUnit() {
  if (SpareUnits().empty()) return std::make_unique<PointUnit>();
  std::unique_ptr<PointUnit> unit = std::move(SpareUnits().back());
  SpareUnits().pop_back();
  return unit;
}

}  // namespace

// Whatever is not as usual is left to Write, which waits for it or says why the write is refused.
bool WritePipeline::TryWrite(PointWrite* write, Frame* leaf, Frame* lane) {
  const WriteOp& op = write->op;
  const size_t key_bytes = op.key.size(), value_bytes = op.value.size();
  if (state_.phase() != Phase::kServing || writes_held_ || gave_up_ || !MayPin()) return false;
  if (write->level != WriteLevel::kQuorum) return false;
  if (!state_.gate->MayWrite(write->level, write->seen_epoch).ok()) return false;  // CG3
  if (key_bytes > state_.tree->max_key_bytes()) return false;
  if (op.op == RecordOp::kPut && state_.tree->NeedsOverflow(key_bytes, value_bytes)) return false;
  OpCost cost;
  AddCost(op, &cost);
  const size_t records = write->once ? 2 : 1;
  bool begins_lane = false;
  if (write->once) {
    AddCost(*write->once, &cost);
    begins_lane = !state_.tree->FindInLeaf(lane, write->once->key);
    if (!MayBeSent(*write->once) || (begins_lane && !MayTakeLane())) return false;
  }
  if (!CheckFits(records, cost.frames).ok()) return false;
  if (!state_.log->HasSpace(cost.encoded_bytes) || !UncommittedFits(cost.encoded_bytes, records)) return false;
  std::unique_ptr<PointUnit> unit = TakePointUnit();
  const bool only_removes = !write->once && (op.op == RecordOp::kRemove || op.op == RecordOp::kExpire);
  const bool admitted = (only_removes || state_.gate->CheckDisks(cost.blocks * kBlockBytes).ok()) &&
                        admission_.TryAdmit(cost.blocks, only_removes, &unit->blocks);
  if (!admitted || (write->control && !write->control->BeginAppend())) {
    unit->blocks.Drop();
    SpareUnits().push_back(std::move(unit));
    return false;
  }
  if (begins_lane) TakeLane();
  if (!only_removes) state_.NoteAdmitted(cost.blocks);
  ++state_.stats.writes_total;
  ++state_.active_calls;
  unit->waits = QueueEntry::Waiter::kPoint;
  unit->client = write;
  unit->encoded.reserve(cost.encoded_bytes);
  AppendMarksBefore(write->seen_version, records);
  EncodePoint(*write, unit.get());
  if (lane) unit->content.pins.push_back(state_.pool.Pin(lane));
  unit->content.pins.push_back(state_.pool.Pin(leaf));
  write->begun = true;
  Append(unit.release());
  state_.gate->OnAppended();
  return true;
}

void WritePipeline::EncodePoint(const PointWrite& write, PointUnit* unit) {
  See(write.seen_version);
  if (write.once) {
    LogRecord once = RecordOf(*write.once, state_.clock.Give());
    once.digest = DigestOf(std::span(&write.op, 1), /*all_or_nothing=*/false, &unit->encoded);
    once.continues = true;
    EncodeRecord(once, &unit->encoded);
  }
  EncodeRecord(RecordOf(write.op, state_.clock.Give()), &unit->encoded);
  unit->reply.room = write.values;
  unit->content.reply = &unit->reply;
  unit->content.records.resize(write.once ? 2 : 1);
  unit->content.records.back().wanted = WantedBy(write.op);
  DecodeOwn(unit);
}

// The unit has left the queue.
void WritePipeline::FinishPoint(PointUnit* unit, Status status) {
  std::unique_ptr<PointUnit> owned(unit);
  PointWrite* write = std::exchange(unit->client, nullptr);
  CHECK(write != nullptr && write->begun) << "PW1: a write was done that had not begun, or twice";
  write->status = status.ok() ? std::move(unit->reply.status) : std::move(status);
  if (write->status.ok()) write->result = std::move(unit->reply.results.back());
  write->end = {unit->content.epoch, unit->content.last_lsn()};
  unit->content.pins.clear();
  unit->blocks.Drop();  // what it changed counts as dirty now
  if (SpareUnits().size() < kMaxSpareUnits && unit->encoded.capacity() <= kMaxSpareBytes) {
    unit->encoded.clear();
    unit->content.found.clear();
    unit->reply.results.clear();
    unit->reply.value_bytes = 0;
    unit->reply.status = Status();
    unit->content.records.clear();
    SpareUnits().push_back(std::move(owned));
  }
  write->OnDone();
  if (--state_.active_calls == 0) state_.idle.NotifyAll();
}

}  // namespace pando
