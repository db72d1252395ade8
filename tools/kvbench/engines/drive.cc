#include "tools/kvbench/engines/drive.h"

#include <algorithm>
#include <ctime>
#include <numeric>
#include <utility>

namespace pando::bench {

int64_t MonotonicNs() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void DriveTally::Merge(const DriveTally& other) {
  ops += other.ops;
  rows += other.rows;
  not_found += other.not_found;
  checked += other.checked;
  inserts += other.inserts;
  user_bytes_written += other.user_bytes_written;
  scanned_bytes += other.scanned_bytes;
  latency_ns.Merge(other.latency_ns);
  if (timeline.size() < other.timeline.size()) timeline.resize(other.timeline.size());
  for (size_t i = 0; i < other.timeline.size(); ++i) {
    timeline[i].ops += other.timeline[i].ops;
    timeline[i].max_ns = std::max(timeline[i].max_ns, other.timeline[i].max_ns);
  }
}

OpSource::OpSource(const DriveSpec& spec) : spec_(spec) {
  if (!spec.read_all_once) stream_.emplace(spec.mix, spec.records, spec.seed);
}

void OpSource::Start(int64_t begin_ns) {
  begin_ns_ = begin_ns;
  end_ns_ = begin_ns + static_cast<int64_t>(spec_.seconds * 1e9);
  if (spec_.rate > 0) schedule_.emplace(spec_.rate, begin_ns, spec_.seconds);
}

std::optional<int64_t> OpSource::NextDueNs() const {
  uint64_t ticket = next_ticket_.load(std::memory_order_relaxed);
  if (!schedule_ || ticket >= schedule_->count() || stopped_.load(std::memory_order_relaxed)) return std::nullopt;
  return schedule_->DueNs(ticket);
}

OpClient::OpClient(OpSource* source, uint32_t index)
    : source_(source),
      value_seed_(Mix64(source->spec_.seed * 0x10001 + index)),
      until_check_(1 + index % source->spec_.check_every),
      key_(source->spec_.shape.key_bytes, '\0'),
      value_(source->spec_.shape.value_bytes, '\0') {
  if (source->stream_) stream_ = source->stream_->WithSeed(Mix64(source->spec_.seed) + index);
}

const DrawnOp* OpClient::Draw(int64_t now_ns) {
  if (source_->stopped_.load(std::memory_order_relaxed)) return nullptr;
  op_.from_ns = now_ns;
  Op op;
  if (source_->spec_.read_all_once) {
    op.index = source_->next_ticket_.fetch_add(1, std::memory_order_relaxed);
    if (op.index >= source_->spec_.records) return nullptr;
  } else if (source_->schedule_) {
    uint64_t ticket = source_->next_ticket_.fetch_add(1, std::memory_order_relaxed);
    if (ticket >= source_->schedule_->count()) return nullptr;
    op_.from_ns = source_->schedule_->DueNs(ticket);
    op = stream_->Next();
  } else {
    if (now_ns >= source_->end_ns_) return nullptr;
    op = stream_->Next();
  }
  if (op.insert) op.index = source_->spec_.records + source_->inserts_.fetch_add(1, std::memory_order_relaxed);
  op_.kind = op.kind;
  op_.insert = op.insert;
  op_.rows = op.rows;
  WriteKey(op.index, key_.size(), key_.data());
  op_.key = source_->spec_.mix.scan_full ? scan_from_ : key_;
  return &op_;
}

std::string_view OpClient::NewValue() {
  FillValue(key_, ++value_seed_, value_.data(), value_.size(), source_->spec_.shape.compressible_percent);
  return value_;
}

Status OpClient::Check(std::string_view value, DriveTally* tally) {
  if (value.size() != source_->spec_.shape.value_bytes) {
    return Error(Code::kCorruption, "key {}: the engine returned {} bytes of value, but {} were written", key_,
                 value.size(), source_->spec_.shape.value_bytes);
  }
  if (--until_check_ > 0) return Status();
  until_check_ = source_->spec_.check_every;
  ++tally->checked;
  if (CheckValue(key_, value, value.size(), source_->spec_.shape.compressible_percent)) return Status();
  return Error(Code::kCorruption, "key {}: the engine returned a value that was not written", key_);
}

Status OpClient::CheckFound(bool found, std::string_view value, DriveTally* tally) {
  if (found) return Check(value, tally);
  ++tally->not_found;
  if (source_->spec_.mix.insert > 0) return Status();  // another client may still be inserting it
  return Error(Code::kCorruption, "key {}: the engine did not find a record that was stored", key_);
}

Status OpClient::CheckRows(uint64_t rows, std::string_view last_key, DriveTally* tally) {
  const DriveSpec& spec = source_->spec_;
  tally->rows += rows;
  tally->scanned_bytes += rows * (spec.shape.key_bytes + spec.shape.value_bytes);
  if (spec.mix.scan_full) {
    scanned_ += rows;
    const bool over = rows < op_.rows;
    scan_from_.assign(over ? std::string_view() : last_key);
    scan_from_.push_back('\0');  // the smallest key above it; not all engines take an empty one
    if (!over) return Status();
    if (std::exchange(scanned_, 0) == spec.records) return Status();
    return Error(Code::kCorruption, "a scan of all records did not return {} of them", spec.records);
  }
  if (rows > 0 && rows <= op_.rows) return Status();
  if (rows == 0 && spec.mix.insert > 0) return Status();
  return Error(Code::kCorruption, "a scan of {} rows from the existing key {} returned {} rows", op_.rows, key_, rows);
}

LoadSource::LoadSource(const LoadSpec& spec) : spec_(spec) {
  if (!spec.sorted) return;
  order_.resize(spec.records);
  std::iota(order_.begin(), order_.end(), uint64_t{0});
  // A key begins with this number in hexadecimal.
  std::sort(order_.begin(), order_.end(), [](uint64_t a, uint64_t b) { return Mix64(a) < Mix64(b); });
}

bool LoadSource::Next(Batch* batch) {
  uint64_t first = next_.fetch_add(spec_.batch_records, std::memory_order_relaxed);
  if (first >= spec_.records) return false;
  batch->count = std::min<uint64_t>(spec_.batch_records, spec_.records - first);
  batch->bytes = batch->count * (spec_.shape.key_bytes + spec_.shape.value_bytes);
  batch->keys.resize(batch->count, std::string(spec_.shape.key_bytes, '\0'));
  batch->values.resize(batch->count, std::string(spec_.shape.value_bytes, '\0'));
  for (size_t i = 0; i < batch->count; ++i) {
    uint64_t index = order_.empty() ? first + i : order_[first + i];
    batch->keys[i].resize(spec_.shape.key_bytes);  // an engine may have moved the strings out
    batch->values[i].resize(spec_.shape.value_bytes);
    WriteKey(index, spec_.shape.key_bytes, batch->keys[i].data());
    FillValue(batch->keys[i], spec_.seed, batch->values[i].data(), spec_.shape.value_bytes,
              spec_.shape.compressible_percent);
  }
  return true;
}

}  // namespace pando::bench
