// GetPath is the fast path of `get` through a node.
//
// It gathers the gets that arrive in one turn of the reactor, on any connection, and answers them
// together at the end of the turn. One batched descent serves all of them (Engine::BatchGet
// interleaves their cache misses). Each value is copied once, from its page into the connection's
// output. The path uses no coroutine, and it allocates nothing once its vectors have grown. A get
// whose page is not in memory goes to the slow path, a handler that may suspend. The gets for
// partitions of another reactor go there in one message per turn and reactor.
//
// Threads: one reactor, except RemoteGets, which the reactors pass between them.
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

// Appends the framed reply to `get` in the strict binary protocol, without building the reply
// struct. The bytes equal those that the generated code would write; a test compares the two.
// `session`: ReplyContext.session.
void AppendGetReply(int32_t seqid, bool found, std::string_view value, Version version, int64_t expires_at_ms,
                    std::string* out, std::string_view session = {}, Version hlc = 0);

class GetPath {
 public:
  // Starts one get on the slow path and takes over `key`.
  using SlowGet = std::function<void(const RequestId& id, std::string key, int32_t budget_ms)>;

  struct Metrics {
    Counter gets_total, misses_total, remote_total, parked_total;
  };

  GetPath(RpcServer* server, KvBackend* backend, SlowGet slow_get);
  GetPath(const GetPath&) = delete;
  GetPath& operator=(const GetPath&) = delete;
  ~GetPath();

  // Takes the request and returns true if it is a plain get of the newest state. Returns false for
  // any other request, which the caller then passes to the slow path; that path also finds what is
  // wrong with a bad request.
  bool Offer(const RpcRequest& request);
  // Answers the gets that this turn has gathered.
  void OnTurnEnd();
  // Parks a get of the slow path that has read its value but whose connection has no room for it.
  // The caller drops the value; the get is run again when the connection has room.
  void Park(const RequestId& id, std::string_view key, int32_t budget_ms);
  // Records the size of a value that the slow path read. The recent maximum limits how many slow
  // gets may run for one connection.
  void NoteSlowValue(size_t bytes) { slow_bytes_ = std::max(bytes, slow_bytes_ - slow_bytes_ / 16); }
  // Makes the parked gets check again, at the end of this turn, whether their connections have
  // room.
  void OnReplyRoom() {
    if (parked_.empty() || look_again_) return;
    look_again_ = true;
    server_->ArmTurnEnd();
  }
  const Metrics& metrics() const { return metrics_; }
  // Memory that is kept for the batches of later turns. It is bounded, and not reserved.
  size_t spare_bytes() const;

 private:
  class RemoteGets;
  struct Entry {
    RequestId id;
    uint32_t partition = 0;
    uint32_t key_offset = 0;  // of the stored key in the batch's key bytes
    uint32_t key_bytes = 0;
    int32_t budget_ms = 0;
  };

  // A get that waits because its client reads replies too slowly.
  struct Parked {
    Entry entry;
    std::string key;
    MemoryGrant memory;
  };

  bool Take(const RpcRequest& request);
  void Gather(Entry entry, std::string_view key);
  void Park(const Entry& entry, std::string_view key);
  void TakeUpParked();
  void GoTheLongWay(const Entry& entry, std::string_view key);
  void LookUp(const std::vector<Entry>& entries, const std::string& keys);
  void AnswerLocal();
  void Answer(const Entry& entry, const PointRead& read, const SessionPoint& shown);
  void AddKey(Entry* entry, std::string_view key, std::string* keys) const;
  std::string_view KeyOf(const Entry& entry, const std::string& keys) const;
  void FillReads(const std::vector<Entry>& entries, const std::string& keys);
  void ServeRemote(RemoteGets* gets);   // runs on the target reactor
  void FinishRemote(RemoteGets* gets);  // runs on the origin reactor
  RemoteGets* BatchFor(uint32_t reactor);
  void PutAway(RemoteGets* gets);

  RpcServer* const server_;
  KvBackend* const backend_;
  const SlowGet slow_get_;
  Metrics metrics_;
  api::Kv_get_args args_;  // reused, so that decoding allocates nothing
  std::vector<Entry> entries_;
  std::string keys_;
  std::vector<PointRead> reads_;
  std::vector<SessionPoint> shown_;  // with each of them, in a cluster
  std::string session_;              // of the reply that is made
  std::vector<Parked> parked_;
  // Decaying maximum size of the values that slow gets read.
  size_t slow_bytes_ = 0;
  bool look_again_ = false;  // a parked get may have room now
  // By target reactor; null = this turn has no gets for it.
  std::vector<RemoteGets*> gathering_;
  size_t remotes_in_use_ = 0;  // those that gather or travel; PutAway takes each of them back
  std::vector<std::unique_ptr<RemoteGets>> spare_;
};

}  // namespace pando
