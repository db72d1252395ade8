// WritePath is the path of `put`, `remove`, `increment` and `touch` through a node.
//
// It gathers the writes that arrive in one turn of the reactor, on any connection, and begins them
// together at the end of the turn: one batched descent serves all of them (Engine::BatchWrite). The
// log then writes them as one batch, and those that it makes durable together are answered together.
// A write whose leaf is in memory uses no coroutine, and allocates nothing once the objects that it
// uses have been used before. A write that has to wait for something else runs as a coroutine. The
// writes for partitions of another reactor go there in one message per turn and reactor, and those
// that are done in a turn come back in one.
//
// Threads: one reactor, except RemoteWrites, which the reactors pass between them.
//
// Invariants
//   WP1  A request that was taken is answered once: when its write is done, or at its deadline. Its
//        call ends when its write is done.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/io/task.h"
#include "src/metrics/histogram.h"
#include "src/model/point_write.h"
#include "src/node/kv_backend.h"
#include "src/rpc/rpc_server.h"

namespace pando {

// Appends the framed reply to a write that was applied, in the strict binary protocol, without
// building the reply struct. The bytes equal those that the generated code would write; a test
// compares the two.
// `session`: ReplyContext.session.
void AppendWriteReply(std::string_view method, int32_t seqid, Version version, bool existed, std::string* out,
                      std::string_view session = {});

class WritePath {
 public:
  struct Metrics {
    Counter begun_total;   // without a coroutine
    Counter slowly_total;  // with one
    Counter remote_total;  // passed to another reactor first
  };

  // `tasks` is drained before the path is destroyed.
  WritePath(RpcServer* server, KvBackend* backend, TaskGroup* tasks);
  WritePath(const WritePath&) = delete;
  WritePath& operator=(const WritePath&) = delete;
  ~WritePath();

  // Takes a request whose arguments are `Args` (Kv_put_args, ...), or answers why it is refused.
  template <typename Args>
  void Take(const RpcRequest& request, std::string_view method, Histogram* latency);
  // Begins the writes that this turn has gathered, and answers those that are done.
  void OnTurnEnd();
  const Metrics& metrics() const { return metrics_; }

 private:
  // Entries that are kept for later writes, and the most that each of them keeps. This memory is
  // bounded, and not reserved.
  static constexpr size_t kMaxSpares = 256;
  static constexpr size_t kSpareBytes = 16u << 10;

  struct Entry;
  class RemoteWrites;
  // Entries in the order of their deadlines.
  struct DeadlineQueue {
    Entry* first = nullptr;
    Entry* last = nullptr;
  };
  struct QueueTimer : Timer {
    WritePath* path = nullptr;
  };

  // Decodes and checks a request. Returns null after answering a bad one.
  template <typename Args>
  std::unique_ptr<Entry> Decode(const RpcRequest& request, std::string_view method);
  std::optional<api::KvError> ToLevel(const api::Context& context, Entry* entry) const;
  std::string_view SessionOf(Entry* entry);
  std::unique_ptr<Entry> TakeEntry();
  void PutAway(std::unique_ptr<Entry> entry);
  void Begin(std::unique_ptr<Entry> entry);
  void BeginGathered();
  RemoteWrites* BatchFor(uint32_t reactor);
  void Arrive(Entry* entry);
  static void UseControl(Entry* entry);
  Task<void> WriteSlowly(Entry* entry);
  void Finish(Entry* entry);
  void Answer(Entry* entry);
  void JoinDeadlines(Entry* entry);
  void LeaveDeadlines(Entry* entry);
  void OnDeadline();
  void AnswerLate(Entry* entry);

  RpcServer* const server_;
  KvBackend* const backend_;
  TaskGroup* const tasks_;
  Metrics metrics_;
  // Used again, so that decoding allocates nothing.
  std::tuple<api::Kv_put_args, api::Kv_remove_args, api::Kv_increment_args, api::Kv_touch_args> args_;
  std::vector<Entry*> gathered_;     // to begin at the end of this turn
  std::vector<PointWrite*> writes_;  // the same, for Engine::BatchWrite
  // By target reactor; null = this turn has none for it.
  std::vector<RemoteWrites*> gathering_;
  std::vector<Entry*> done_;  // to answer at the end of this turn
  std::vector<std::unique_ptr<Entry>> spare_;
  std::string session_;  // of the reply that is made
  size_t in_progress_ = 0;
  DeadlineQueue deadlines_;
  QueueTimer timer_;
};

}  // namespace pando
