// GetPath: the short way of `get` through a node.
//
// The gets of a turn, whatever connection they came on, are gathered and answered together at its end: one descent for
// all of them (Engine::BatchGet interleaves their cache misses), each value copied once, from its page into the
// connection's output. No coroutine, and no allocation once the vectors have grown. What is not in memory goes to the
// handler that may suspend; what belongs to another reactor goes there as one message per turn and reactor.
//
// Threads: one reactor, but for RemoteGets, which are handed between two.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/metrics/metrics.h"
#include "src/node/kv_backend.h"
#include "src/rpc/rpc_server.h"

namespace pando {

// Appends the framed reply to `get` in the strict binary protocol: the bytes that the generated code would write
// (a test holds them against each other), without building the struct.
void AppendGetReply(int32_t seqid, bool found, std::string_view value, Version version, int64_t expires_at_ms,
                    std::string* out);

class GetPath {
 public:
  // Answers one get the long way; `key` moves.
  using SlowGet = std::function<void(const RequestId& id, std::string key, int32_t budget_ms)>;

  struct Metrics {
    Counter gets_total, misses_total, remote_total, parked_total;
  };

  GetPath(RpcServer* server, KvBackend* backend, SlowGet slow_get);
  GetPath(const GetPath&) = delete;
  GetPath& operator=(const GetPath&) = delete;
  ~GetPath();

  // Takes the request if it is an ordinary get; otherwise the long way finds out what is wrong with it.
  bool Offer(const RpcRequest& request);
  // Answers what this turn has gathered.
  void OnTurnEnd();
  // A get that went the long way found, with its value in hand, that its connection has no room: it is dropped and read
  // again later.
  void Park(const RequestId& id, std::string_view key, int32_t budget_ms);
  // The size of a value that came the long way; tells how many may be under way for one connection.
  void NoteSlowValue(size_t bytes) { slow_bytes_ = std::max(bytes, slow_bytes_ - slow_bytes_ / 16); }
  // Gets that wait for a connection to take its replies look again.
  void OnReplyRoom() {
    if (parked_.empty() || look_again_) return;
    look_again_ = true;
    server_->ArmTurnEnd();
  }
  const Metrics& metrics() const { return metrics_; }

 private:
  class RemoteGets;
  struct Entry {
    RequestId id;
    uint32_t partition = 0;
    uint32_t key_offset = 0;  // in the batch's key bytes
    uint32_t key_bytes = 0;
    int32_t budget_ms = 0;
  };

  // A get whose connection does not take its replies fast enough.
  struct Parked {
    Entry entry;
    std::string key;
    MemoryGrant memory;
  };

  void Gather(Entry entry, std::string_view key);
  void Park(const Entry& entry, std::string_view key);
  void TakeUpParked();
  void GoTheLongWay(const Entry& entry, std::string_view key);
  void AnswerLocal();
  void Answer(const RequestId& id, const PointRead& read);
  void FillReads(const std::vector<Entry>& entries, const std::string& keys);
  void ServeRemote(RemoteGets* gets);   // on the target
  void FinishRemote(RemoteGets* gets);  // back on the origin
  RemoteGets* BatchFor(uint32_t reactor);

  RpcServer* const server_;
  KvBackend* const backend_;
  const SlowGet slow_get_;
  Metrics metrics_;
  api::Kv_get_args args_;  // reused, so that decoding allocates nothing
  std::vector<Entry> entries_;
  std::string keys_;
  std::vector<PointRead> reads_;
  std::vector<Parked> parked_;
  size_t slow_bytes_ = 0;                             // what the values of slow gets have lately had, at most
  bool look_again_ = false;                           // something parked may have room now
  std::vector<RemoteGets*> gathering_;                // by target reactor; null = none this turn
  std::vector<std::unique_ptr<RemoteGets>> remotes_;  // all that exist
  std::vector<RemoteGets*> spare_;
};

}  // namespace pando
