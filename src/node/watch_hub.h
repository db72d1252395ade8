// WatchHub is where the watchers of one reactor wait for changes.
//
// Each partition publishes the version of its newest change in an atomic
// (Partition::newest_change). While watchers wait, the hub compares these versions with the
// watchers' positions on every tick of a timer, and resumes the watchers that are behind. Because
// it compares state instead of receiving events, it misses no change that happens between a
// watcher's look and its wait. The cost to a write is one atomic store, and nothing is registered
// on the partition's reactor.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
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

  // Suspends until a partition may have a change after the position, until `until_ns`, or until
  // MustEnd. The wait does not return the reason: the caller looks again
  // in any case. A change does not resume the watcher before `look_after_ns`, so that a watcher
  // whose looks find nothing with its prefix looks less often.
  // REQUIRES: HasRoom(). All arguments passed by reference outlive the wait.
  class [[nodiscard]] Wait {
   public:
    Wait(WatchHub* hub, const std::vector<Partition*>& partitions, const WatchPosition& position, const RequestId& id,
         Nanos look_after_ns, Nanos until_ns)
        : hub_(hub),
          partitions_(&partitions),
          position_(&position),
          id_(id),
          look_after_ns_(look_after_ns),
          until_ns_(until_ns) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      waiter_ = h;
      hub_->Add(this);
    }
    void await_resume() {}

   private:
    friend class WatchHub;
    WatchHub* const hub_;
    const std::vector<Partition*>* const partitions_;
    const WatchPosition* const position_;
    const RequestId id_;
    const Nanos look_after_ns_, until_ns_;
    bool unchecked_ = true;  // there may be news that OnTick has not looked for
    std::coroutine_handle<> waiter_;
  };

  // `backend`: with all partitions that watchers may wait for. It outlives the hub.
  WatchHub(RpcServer* server, const KvBackend* backend, WatchOptions options)
      : server_(server), backend_(*backend), options_(options) {}
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
  static bool HasNews(const std::vector<Partition*>& partitions, const WatchPosition& position);

 private:
  void Add(Wait* wait);
  void OnTick();
  bool AnyChange();
  bool IsOver(Wait* wait, Nanos now, size_t* compared) const;

  RpcServer* const server_;
  const KvBackend& backend_;
  const WatchOptions options_;
  uint64_t changes_sum_ = 0;  // at the last tick
  Metrics metrics_;
  std::vector<Wait*> waiting_;
};

}  // namespace pando
