// RpcServer: a framed Thrift server on one reactor.
//
// It accepts, frames, bounds and answers; what a request means is the RpcService's business. Every request handed to
// the service must be answered exactly once (BeginReply/EndReply, or one of the helpers). Replies leave in request
// order, or as they become ready once AllowOutOfOrderReplies was called for the connection.
//
// Bounds: requests and reply bytes in progress per connection (past them its receiving stops), connections per node,
// and one MemoryBudget for half frames, running calls and unsent replies. Past it requests are answered OVERLOADED, and
// a connection that does not take these answers is not read either.
//
// Threads: one reactor. Several servers share a port (SO_REUSEPORT), the budget and the count of connections.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/base/memory_budget.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/rpc/rpc_connection.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

struct RpcOptions {
  uint32_t max_requests = 128;        // in progress per connection
  size_t max_reply_bytes = 4u << 20;  // made and unsent per connection
  uint32_t max_connections = 20'000;  // of all servers that share `RpcShared`
  // A peer that has replies to take, or the rest of a frame to send, must move min_bytes_per_s on average over each
  // such period. So a slow but steady peer is served, and one that drips bytes cannot hold memory.
  Nanos stall_timeout_ns = 60 * kSecond;
  uint64_t min_bytes_per_s = 1024;
  Nanos idle_timeout_ns = 0;  // a connection on which nothing is asked for so long is closed; 0: never
  int32_t default_budget_ms = 10'000;
  int32_t max_budget_ms = 600'000;
};

// What the servers of one node share.
struct RpcShared {
  // Of `memory_bytes`, 1/kControlShare is kept for the methods of the control lane.
  static constexpr int64_t kControlShare = 16;
  explicit RpcShared(int64_t memory_bytes)
      : memory(memory_bytes - memory_bytes / kControlShare, memory_bytes / kControlShare) {}
  MemoryBudget memory;
  std::atomic<uint32_t> connections{0};
};

struct RpcMetrics {
  Gauge connections, paused_connections, buffered_bytes;
  Counter accepted_total, refused_total, closed_stalled_total, closed_idle_total, closed_overloaded_total;
  Counter requests_total, received_bytes_total, sent_bytes_total;
  Counter overloaded_total, deadline_total, bad_requests_total, garbage_total;
};

// Names one request until it is answered. Copyable; valid across turns because the connection outlives its requests.
struct RequestId {
  RpcConnection* connection = nullptr;
  uint32_t sequence = 0;
  int32_t seqid = 0;
  WireProtocol protocol = WireProtocol::kBinary;
};

struct RpcRequest {
  RequestId id;
  std::string_view method;  // both point into the receive buffer: valid during OnRequest
  std::string_view body;    // the encoded args struct
};

class RpcService {
 public:
  virtual void OnRequest(const RpcRequest& request) = 0;
  // The lane of a method. Requests of the control lane are handed on even when memory is exhausted.
  virtual MemoryLane LaneOf(std::string_view /*method*/) const { return MemoryLane::kOrdinary; }
  // Before the replies of the turn are sent: the place to answer what was gathered.
  virtual void OnTurnEnd() = 0;
  // Some connection has sent what it had, or is gone: what waits for HasRoom may look again.
  virtual void OnReplyRoom() = 0;

 protected:
  ~RpcService() = default;
};

class RpcServer final : public AcceptHandler, private TurnHook {
 public:
  RpcServer(Reactor& reactor, RpcOptions options, RpcShared* shared);
  ~RpcServer();  // REQUIRES: Shutdown has finished

  // Once, before Listen. The service outlives the server's Shutdown.
  void SetService(RpcService* service) { service_ = service; }
  Result<uint16_t> Listen(const ListenOptions& options);  // -> port
  // Refuses new connections and requests, waits until what runs is answered and sent, closes. After `limit_ns` whatever
  // is left is cut off.
  Task<void> Shutdown(Nanos limit_ns);

  // -- answering. BeginReply returns the string to append one whole frame to; EndReply must follow at once.
  std::string* BeginReply(const RequestId& id);
  void EndReply(const RequestId& id);
  template <typename Body>
  void Reply(const RequestId& id, std::string_view method, const Body& result) {
    codec_.Write(Header(id, method, apache::thrift::protocol::T_REPLY), result, BeginReply(id));
    EndReply(id);
  }
  void ReplyError(const RequestId& id, std::string_view method, const api::KvError& error);
  void ReplyOverloaded(const RequestId& id, std::string_view method, size_t needed_bytes = 0) {
    metrics_.overloaded_total.Add();
    ReplyError(id, method, OverloadedError(needed_bytes));
  }
  void ReplyException(const RequestId& id, std::string_view method,
                      TApplicationException::TApplicationExceptionType type, std::string_view message);

  // The client matches replies by sequence id: from now on none waits for another on this connection.
  void AllowOutOfOrderReplies(const RequestId& id) { id.connection->AllowOutOfOrder(); }

  // False while the connection has max_reply_bytes of replies unsent: then a large reply had better wait for
  // OnReplyRoom. For the oldest unanswered request only what is ready to be sent counts: everything else waits for it.
  // `call_bytes`: what each call that runs on the connection is expected to add.
  bool HasRoom(const RequestId& id, size_t call_bytes = 0) const {
    return id.connection->HasRoom(id.sequence, call_bytes);
  }

  // The client is gone: an empty reply ends the request.
  bool stopping() const { return stopping_; }  // Shutdown has begun: calls that only wait should end
  bool IsClosed(const RequestId& id) const { return id.connection->state_ == RpcConnection::State::kClosed; }

  // -- calls that outlive OnRequest
  void BeginCall(const RequestId& id) { ++id.connection->running_; }
  void EndCall(const RequestId& id);
  BudgetAccount& account() { return account_; }
  int64_t memory_limit_bytes() const { return shared_->memory.limit_bytes(); }
  // True when what can be refused should be, for want of memory.
  bool Exhausted() const { return account_.Exhausted(); }

  // Makes OnTurnEnd of the service run in this turn.
  void ArmTurnEnd() {
    if (!in_turn_end_) reactor_.ArmTurnHook(this);
    service_pending_ = true;
  }

  static MessageHeader Header(const RequestId& id, std::string_view method, ThriftMessageType type) {
    return {id.protocol, type, id.seqid, method};
  }
  // `needed_bytes`: what the request would take. TOO_LARGE, not to be tried again, when that is more than there is.
  api::KvError OverloadedError(size_t needed_bytes = 0) const;
  Reactor& reactor() { return reactor_; }
  ThriftCodec& codec() { return codec_; }
  RpcMetrics& metrics() { return metrics_; }
  const RpcOptions& options() const { return options_; }

 private:
  friend class RpcConnection;
  struct WatchTimer : Timer {
    RpcServer* server = nullptr;
  };
  void OnAccept(Connection* connection) override;
  void OnTurnEnd() override;
  void OnWatch();  // closes what has stalled or is idle
  void Watch(RpcConnection* c, Nanos now);
  bool TooSlow(RpcConnection::Progress* progress, bool owed, uint64_t moved_bytes, Nanos now) const;
  void Remove(RpcConnection* c);
  void MarkDirty(RpcConnection* c);
  void LogLimited(const std::string& message);
  std::string TakeBuffer();
  void GiveBuffer(std::string buffer);

  Reactor& reactor_;
  const RpcOptions options_;
  RpcShared* const shared_;
  RpcService* service_ = nullptr;
  BudgetAccount account_;
  ThriftCodec codec_;
  RpcMetrics metrics_;
  std::vector<std::unique_ptr<RpcConnection>> connections_;
  std::vector<RpcConnection*> dirty_, flushing_;
  std::vector<std::string> buffers_;  // spare reply strings
  size_t buffers_bytes_ = 0;
  std::string discarded_;  // takes replies to closed connections
  uint32_t refused_ = 0;   // connections in State::kRefused
  bool in_turn_end_ = false, service_pending_ = false, stopping_ = false, listening_ = false;
  WatchTimer watch_;
  Nanos next_log_ns_ = 0;
  uint64_t unlogged_ = 0;
};

}  // namespace pando
