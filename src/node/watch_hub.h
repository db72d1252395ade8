// WatchHub is where the watchers of one reactor wait for changes: of records (ChangeWait), or, in a hub of its own, of
// the map (kv_map.cc).
//
// While watchers wait, the hub looks on every tick of a timer whether there is news for them, and resumes those for
// whom there is. Because it compares state instead of receiving events, it misses no change that happens between a
// watcher's look and its wait. For records it compares the watchers' positions with the version of its newest change
// that each partition publishes in an atomic (Partition::newest_change). The cost to a write is one atomic store, and
// nothing is registered on the partition's reactor.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <functional>
#include <vector>

#include "src/kvapi/watch_position.h"
#include "src/metrics/metrics.h"
#include "src/model/partition.h"
#include "src/node/kv_backend.h"
#include "src/rpc/rpc_server.h"

namespace pando {

struct WatchOptions {
  size_t max_waiting = 1024;  // watchers per reactor; further ones are refused
};

class WatchHub : private Timer {
 public:
  struct Metrics {
    Gauge waiting;
    Counter changes_total, gone_total, refused_total;
  };

  // Suspends until there is news, until `until_ns`, or until MustEnd. The wait does not return the reason: the caller
  // looks again in any case. News does not resume the watcher before `look_after_ns`, so that a watcher whose looks
  // find nothing with its prefix looks less often.
  // REQUIRES: HasRoom().
  class [[nodiscard]] Wait {
   public:
    Wait(WatchHub* hub, const RequestId& id, Nanos look_after_ns, Nanos until_ns)
        : hub_(hub), id_(id), look_after_ns_(look_after_ns), until_ns_(until_ns) {}
    virtual ~Wait() = default;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      waiter_ = h;
      hub_->Add(this);
    }
    void await_resume() {}

   protected:
    // There may be what the watcher waits for.
    virtual bool HasNews() const = 0;
    // How many versions that compares.
    virtual size_t cost() const = 0;

   private:
    friend class WatchHub;
    WatchHub* const hub_;
    const RequestId id_;
    const Nanos look_after_ns_, until_ns_;
    bool unchecked_ = true;  // there may be news that OnTick has not looked for
    std::coroutine_handle<> waiter_;
  };

  // `changes`: a number that is another one after each change of anything that watchers may wait for.
  WatchHub(RpcServer* server, std::function<uint64_t()> changes, WatchOptions options)
      : server_(server), changes_(std::move(changes)), options_(options) {}
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;
  ~WatchHub();

  bool HasRoom() const { return waiting_.size() < options_.max_waiting; }
  const WatchOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }
  // Returns true if the watcher should not wait: the client is gone, the server stops, or the replies
  // to later requests of the connection are ready and must wait for this one. These would take
  // memory for as long as the watcher waits.
  static bool MustEnd(const RpcServer& server, const RequestId& id) {
    return server.stopping() || server.IsClosed(id) || server.HoldsUpReplies(id);
  }

 private:
  void Add(Wait* wait);
  void OnTick();
  bool IsOver(Wait* wait, Nanos now, size_t* compared) const;

  RpcServer* const server_;
  const std::function<uint64_t()> changes_;
  const WatchOptions options_;
  uint64_t seen_changes_ = 0;  // at the last tick
  Metrics metrics_;
  std::vector<Wait*> waiting_;
};

// Changes of any partition of the node.
uint64_t SumOfChanges(const KvBackend& backend);

// Whether a partition has a change after the position.
bool HasNews(const std::vector<Partition*>& partitions, const WatchPosition& position);

// Waits for that.
class [[nodiscard]] ChangeWait final : public WatchHub::Wait {
 public:
  // All arguments passed by reference outlive the wait.
  ChangeWait(WatchHub* hub, const std::vector<Partition*>& partitions, const WatchPosition& position,
             const RequestId& id, Nanos look_after_ns, Nanos until_ns)
      : Wait(hub, id, look_after_ns, until_ns), partitions_(partitions), position_(position) {}

 private:
  bool HasNews() const override { return pando::HasNews(partitions_, position_); }
  size_t cost() const override { return partitions_.size(); }

  const std::vector<Partition*>& partitions_;
  const WatchPosition& position_;
};

}  // namespace pando
