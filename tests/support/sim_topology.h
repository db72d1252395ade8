// SimTopology: a topology in memory, for simulations. A SimTopologyServer is the store; each client
// reaches it through a SimTopology of its own, with faults of its own. Every delay and every fault is
// drawn from the randomness of the client's reactor, so a seed reproduces them.
//
// Threads: that of the simulation. The server must outlive its clients.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "src/io/sync.h"
#include "src/topology/topology_store.h"

namespace pando {

struct SimTopologyFaults {
  // Of a request and of an answer, each.
  Nanos latency_min_ns = 50 * kMicrosecond, latency_max_ns = kMillisecond;
  bool unreachable = false;
  // Of a CompareAndSwap that reaches its end without an answer: a third of these have no effect, a
  // third are stored at once, and a third are stored up to `late_ns` after their deadline, if their
  // revision is still the right one then.
  double unknown_probability = 0;
  Nanos late_ns = kSecond;
  double error_probability = 0;       // of a call that fails, without an effect
  double gap_probability = 0;         // of a wait that says that there is a gap
  double wait_error_probability = 0;  // of a wait that fails at once
  double repeat_probability = 0;      // of a wait that repeats what was known before
  double lose_probability = 0;        // of each change that a wait does not tell of
};

class SimTopologyServer {
 public:
  // How many changes waits can still be told of; older ones are a gap.
  size_t kept_changes = 100;

  Revision revision() const { return revision_; }
  const std::map<std::string, TopologyEntry>& entries() const { return entries_; }
  const std::deque<TopologyEntry>& history() const { return changes_; }  // as far as it is kept
  // A copy of the whole store, and its restoration, as an operator would do it.
  SimTopologyServer Backup() const { return *this; }

 private:
  friend class SimTopology;
  TopologyEntry Get(const std::string& key) const {
    auto it = entries_.find(key);
    return it == entries_.end() ? TopologyEntry{key, "", 0} : it->second;
  }
  CasOutcome Swap(const std::string& key, Revision expected, const std::string& value) {
    if (Get(key).revision != expected) return CasOutcome::Conflict();
    entries_[key] = {key, value, ++revision_};
    changes_.push_back(entries_[key]);
    if (changes_.size() > kept_changes) changes_.pop_front();
    return CasOutcome::Stored(revision_);
  }
  std::map<std::string, TopologyEntry> entries_;
  std::deque<TopologyEntry> changes_;  // one for each of the last revisions
  Revision revision_ = 0;
};

class SimTopology final : public TopologyStore {
 public:
  SimTopology(Reactor& reactor, SimTopologyServer* server, SimTopologyFaults faults = {})
      : reactor_(reactor), server_(server), faults_(faults) {}

  SimTopologyFaults& faults() { return faults_; }
  size_t lists() const { return lists_; }
  // Entries that ReadChanges has returned.
  size_t read_changes() const { return read_changes_; }

  Task<Result<TopologyEntry>> Read(std::string key, Nanos deadline_ns) override {
    if (Status reached = co_await Request(deadline_ns); !reached.ok()) co_return reached;
    TopologyEntry entry = server_->Get(key);
    co_await Travel();
    co_return entry;
  }

  Task<Result<TopologyListing>> List(Nanos deadline_ns) override {
    if (Status reached = co_await Request(deadline_ns); !reached.ok()) co_return reached;
    ++lists_;
    TopologyListing listing;
    listing.revision = server_->revision_;
    for (const auto& [key, entry] : server_->entries_) listing.entries.push_back(entry);
    co_await Travel();
    co_return listing;
  }

  Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos deadline_ns) override {
    if (Status reached = co_await Request(deadline_ns); !reached.ok()) co_return reached;
    TopologyChanges changes;
    changes.revision = server_->revision_;
    changes.keys = server_->entries_.size();
    for (const auto& [key, entry] : server_->entries_) {
      if (entry.revision > after) changes.entries.push_back(entry);
    }
    read_changes_ += changes.entries.size();
    co_await Travel();
    co_return changes;
  }

  Task<Result<CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value,
                                          Nanos deadline_ns) override {
    if (Status reached = co_await Request(deadline_ns); !reached.ok()) {
      // A request that nobody has answered may still be on its way.
      if (reached.code() == Code::kDeadline) co_return CasOutcome::Unknown(std::move(reached));
      co_return reached;
    }
    if (!Chance(faults_.unknown_probability)) {
      CasOutcome outcome = server_->Swap(key, expected, value);
      co_await Travel();
      co_return outcome;
    }
    const uint64_t kind = reactor_.Random() % 3;
    if (kind == 1) (void)server_->Swap(key, expected, value);
    if (kind == 2) late_.Spawn(SwapLate(key, expected, value, deadline_ns));
    co_return CasOutcome::Unknown(co_await NoAnswer(deadline_ns));
  }

  Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos deadline_ns) override {
    if (Status reached = co_await Request(deadline_ns); !reached.ok()) co_return reached;
    TopologyChanges changes;
    if (faults_.wait_error_probability > 0 && Chance(faults_.wait_error_probability)) {
      co_return Error(Code::kUnavailable, "{}: the wait has ended", name_);
    }
    changes.gap = Chance(faults_.gap_probability);
    if (changes.gap) co_return changes;
    while (server_->revision_ <= after && reactor_.NowNs() < deadline_ns && !ending_ && !faults_.unreachable) {
      co_await Sleep(reactor_, kMillisecond);
    }
    if (ending_) co_return Error(Code::kAborted, "the wait was ended");
    if (faults_.unreachable) co_return co_await NoAnswer(deadline_ns);
    changes.gap = server_->revision_ - std::min(after, server_->revision_) > server_->changes_.size();
    if (changes.gap) co_return changes;
    const Revision from = Chance(faults_.repeat_probability) ? 0 : after;
    for (const TopologyEntry& entry : server_->changes_) {
      if (entry.revision > from && !Chance(faults_.lose_probability)) changes.entries.push_back(entry);
    }
    changes.revision = server_->revision_;
    co_await Travel();
    co_return changes;
  }

  void EndWaits() override { ending_ = true; }
  Task<Status> Close() override {
    co_await late_.Drain();
    co_return Status();
  }
  bool one_counter() const override { return true; }
  const std::string& name() const override { return name_; }

 private:
  bool Chance(double p) { return static_cast<double>(reactor_.Random() >> 11) * 0x1p-53 < p; }
  Nanos Between(Nanos lo, Nanos hi) {
    return lo + static_cast<Nanos>(reactor_.Random() % static_cast<uint64_t>(hi - lo + 1));
  }
  Task<void> Travel() { co_await Sleep(reactor_, Between(faults_.latency_min_ns, faults_.latency_max_ns)); }
  Task<Status> NoAnswer(Nanos deadline_ns) {
    while (reactor_.NowNs() < deadline_ns && !ending_) {
      co_await Sleep(reactor_, std::min(deadline_ns - reactor_.NowNs(), 10 * kMillisecond));
    }
    co_return Error(Code::kDeadline, "{}: no answer", name_);
  }
  Task<Status> Request(Nanos deadline_ns) {
    co_await Travel();
    if (faults_.unreachable) co_return co_await NoAnswer(deadline_ns);
    if (Chance(faults_.error_probability)) co_return Error(Code::kUnavailable, "{}: it has no leader", name_);
    co_return Status();
  }
  Task<void> SwapLate(std::string key, Revision expected, std::string value, Nanos deadline_ns) {
    const Nanos at_ns = deadline_ns + Between(0, faults_.late_ns);
    if (at_ns > reactor_.NowNs()) co_await Sleep(reactor_, at_ns - reactor_.NowNs());
    (void)server_->Swap(key, expected, value);
  }

  Reactor& reactor_;
  SimTopologyServer* server_;
  SimTopologyFaults faults_;
  const std::string name_ = "sim:topology";
  bool ending_ = false;
  size_t lists_ = 0, read_changes_ = 0;
  TaskGroup late_;
};

}  // namespace pando
