#include "src/node/multi_get.h"

#include <algorithm>
#include <utility>

#include "src/io/call_on.h"
#include "src/node/get_path.h"

namespace pando {

namespace {

constexpr size_t kBatch = 64;          // keys per batched descent
constexpr size_t kReadsInFlight = 16;  // concurrent reads of keys that are not in memory

struct WantedKey {
  std::string key;
  uint32_t partition = 0;
};

struct Group {
  std::vector<size_t> indexes;  // into the request's keys
  std::vector<WantedKey> keys;
  std::vector<MultiGetResult> results;
};

class GroupReader {
 public:
  // `reactor`: that of `backend`.
  GroupReader(KvBackend* backend, Reactor& reactor, std::vector<WantedKey> keys, MultiGetFrom from, ValueRoom* values)
      : backend_(backend),
        reactor_(reactor),
        keys_(std::move(keys)),
        from_(from),
        values_(values),
        results_(keys_.size()) {}

  Task<std::vector<MultiGetResult>> Run() {
    for (size_t first = 0; first < keys_.size(); first += kBatch) {
      ReadResident(first, std::min(first + kBatch, keys_.size()));
      TaskGroup readers;
      for (size_t i = 0; i < std::min(kReadsInFlight, missing_.size()); ++i) readers.Spawn(ReadMissing());
      co_await readers.Drain();  // bounds the reads in flight before the next batch
    }
    co_return std::move(results_);
  }

 private:
  void ReadResident(size_t first, size_t end) {
    if (from_.snapshot != 0) {  // batch_get reads only the newest state
      for (size_t i = first; i < end; ++i) missing_.push_back(i);
      return;
    }
    const std::string_view prefix = backend_->keys.prefix();
    size_t bytes = (end - first) * prefix.size();
    for (size_t i = first; i < end; ++i) bytes += keys_[i].key.size();
    std::vector<PointRead> reads(end - first);
    std::string stored;
    stored.reserve(bytes);  // the reads point into it
    for (size_t i = first; i < end; ++i) {
      const size_t from = stored.size();
      stored.append(prefix).append(keys_[i].key);
      reads[i - first].partition = backend_->stored[keys_[i].partition];
      reads[i - first].key = std::string_view(stored).substr(from);
    }
    backend_->batch_get(reads);
    const ReadGate* gate = from_.any_replica ? nullptr : backend_->read_gate;
    const Nanos fresh_now_ns = gate == nullptr ? 0 : reactor_.FreshNowNs();
    for (size_t i = first; i < end; ++i) {
      const PointRead& read = reads[i - first];
      ReadResult& record = results_[i].record;
      // What was found counts only if the lease still holds now. ReadMissing says what is wrong otherwise.
      const bool counts = gate == nullptr || gate->Holds(keys_[i].partition, fresh_now_ns);
      if (read.outcome == PointRead::Outcome::kMiss || !counts) {
        missing_.push_back(i);
      } else if (read.outcome == PointRead::Outcome::kFound && Admit(i, read.in_place.size())) {
        record.found = true;
        record.version = read.version;
        record.expires_at_ms = read.expires_at_ms;
        record.value = read.in_place;
      }
    }
  }

  Task<void> ReadMissing() {
    while (!missing_.empty()) {
      size_t i = missing_.back();
      missing_.pop_back();
      Partition* partition = (from_.any_replica ? backend_->replicas : backend_->partitions)[keys_[i].partition];
      Result<ReadResult> record = co_await partition->Get(keys_[i].key, from_.snapshot, values_);
      if (record.ok()) {
        results_[i].record = *std::move(record);
      } else {
        results_[i].status = record.TakeStatus();
      }
    }
  }

  bool Admit(size_t i, size_t bytes) {
    const ValueRoom::Answer answer = values_->TryTake(bytes);
    if (answer == ValueRoom::Answer::kTaken) return true;
    results_[i].status = NoRoom(answer, *values_, bytes);
    return false;
  }

  KvBackend* const backend_;
  Reactor& reactor_;
  const std::vector<WantedKey> keys_;
  const MultiGetFrom from_;
  ValueRoom* const values_;
  std::vector<MultiGetResult> results_;
  std::vector<size_t> missing_;
};

Task<std::vector<MultiGetResult>> ReadGroup(KvBackend* backend, Reactor* reactor, std::vector<WantedKey> keys,
                                            MultiGetFrom from, ValueRoom* values) {
  GroupReader reader(backend, *reactor, std::move(keys), from, values);
  Task<std::vector<MultiGetResult>> run = reader.Run();
  co_return co_await run;
}

Task<void> ReadGroupOn(KvBackend* backend, Reactor* origin, uint32_t reactor, Group* group, MultiGetFrom from,
                       ValueRoom* values) {
  KvBackend* there = backend->peers[reactor];
  if (reactor == backend->reactor) {
    group->results = co_await ReadGroup(there, origin, std::move(group->keys), from, values);
    co_return;
  }
  auto call = [there, keys = std::move(group->keys), from, values](Reactor& owner) mutable {
    return ReadGroup(there, &owner, std::move(keys), from, values);
  };
  group->results = co_await CallOn(*origin, static_cast<int>(reactor), std::move(call));
}

}  // namespace

Task<std::vector<MultiGetResult>> ReadKeys(KvBackend* backend, Reactor* reactor, std::vector<std::string> keys,
                                           MultiGetFrom from, ValueRoom* values) {
  std::vector<Group> groups(backend->store->reactors);
  std::vector<MultiGetResult> results(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const uint32_t partition = backend->serving.PartitionOf(keys[i]);
    if (from.refused != nullptr && from.refused->contains(partition)) {
      results[i].status = from.refused->at(partition);
      continue;
    }
    Group& group = groups[backend->store->ReactorOf(partition)];
    group.indexes.push_back(i);
    group.keys.push_back({std::move(keys[i]), partition});
  }
  TaskGroup readers;
  for (uint32_t r = 0; r < groups.size(); ++r) {
    if (!groups[r].indexes.empty()) readers.Spawn(ReadGroupOn(backend, reactor, r, &groups[r], from, values));
  }
  co_await readers.Drain();  // the readers point into `groups`

  for (Group& group : groups) {
    for (size_t i = 0; i < group.indexes.size(); ++i) results[group.indexes[i]] = std::move(group.results[i]);
  }
  co_return results;
}

}  // namespace pando
