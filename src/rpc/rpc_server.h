// RpcServer is a framed Thrift server on one reactor.
//
// The server accepts connections, cuts the stream into frames, enforces limits and sends replies.
// The RpcService decides what a request means. Every request passed to the service must be answered
// exactly once (BeginReply/EndReply, or one of the helpers). Replies leave in request order, or as
// they become ready once AllowOutOfOrderReplies was called for the connection.
//
// Limits: requests in progress and reply bytes per connection (at the limit, the connection is not
// read); connections per node (at the limit, a new one takes the place of an idle one, or is
// refused); and one MemoryBudget for partial frames, running calls and unsent
// replies. When that budget is exhausted, requests are answered with OVERLOADED, and a connection
// that does not read these answers is not read either.
//
// Threads: one reactor. Several servers may share a port (SO_REUSEPORT), the budget and the count
// of connections.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/base/memory_budget.h"
#include "src/io/append_sparely.h"
#include "src/io/byte_filter.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/metrics/registry.h"
#include "src/rpc/rpc_connection.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

struct RpcOptions {
  uint32_t max_requests = 128;        // requests in progress per connection
  size_t max_reply_bytes = 4u << 20;  // bytes of unsent replies per connection
  uint32_t max_connections = 20'000;  // of all servers that share one RpcShared
  // At that limit, a connection that has been idle for this long makes room for a new one.
  Nanos evict_after_ns = 10 * kSecond;
  // A peer that has replies to read, or the rest of a frame to send, must move min_bytes_per_s on
  // average over each period of this length. A peer for which the node holds more memory must move
  // more: what it holds, up to the size of a frame, within hold_limit_ns. A slow but steady peer is
  // therefore served (14 KB/s are always enough), and one that only trickles bytes cannot hold much
  // memory.
  Nanos stall_timeout_ns = 60 * kSecond;
  uint64_t min_bytes_per_s = 1024;
  Nanos hold_limit_ns = 300 * kSecond;
  Nanos idle_timeout_ns = 0;       // connections idle for this long are closed; 0: never
  ByteFilters* filters = nullptr;  // for every connection; must outlive the server; null: none
  int32_t default_budget_ms = 10'000;
  int32_t max_budget_ms = 600'000;
  // What a request gets that asks for `budget_ms`; 0 = the default.
  int32_t BudgetMs(int32_t budget_ms) const {
    return budget_ms <= 0 ? default_budget_ms : std::min(budget_ms, max_budget_ms);
  }
};

// State that all servers of one node share.
struct RpcShared {
  // 1/kControlShare of `memory_bytes` is reserved for the methods of the control lane.
  static constexpr int64_t kControlShare = 16;
  explicit RpcShared(int64_t memory_bytes)
      : memory(memory_bytes - memory_bytes / kControlShare, memory_bytes / kControlShare) {}
  MemoryBudget memory;
  std::atomic<uint32_t> connections{0};
};

struct RpcMetrics {
  Gauge connections, paused_connections, buffered_bytes;
  Counter accepted_total, refused_total, evicted_total;
  Counter closed_stalled_total, closed_idle_total, closed_overloaded_total;
  Counter requests_total, received_bytes_total, sent_bytes_total;
  Counter overloaded_total, deadline_total, bad_requests_total, garbage_total;
  FilterMetrics filters;
};

// Identifies one request until it is answered. It may be copied, and it stays valid across turns
// because the connection outlives its requests.
struct RequestId {
  RpcConnection* connection = nullptr;
  uint32_t sequence = 0;
  int32_t seqid = 0;
  WireProtocol protocol = WireProtocol::kBinary;
};

struct RpcRequest {
  RequestId id;
  std::string_view method;  // both point into the receive buffer; valid only during OnRequest
  std::string_view body;    // the encoded args struct
};

class RpcService {
 public:
  virtual void OnRequest(const RpcRequest& request) = 0;
  // Returns the lane of a method. Requests of the control lane reach the service even when memory
  // is exhausted.
  virtual MemoryLane LaneOf(std::string_view /*method*/) const { return MemoryLane::kOrdinary; }
  // Called before the replies of the turn are sent, so that the service can answer what it has
  // collected.
  virtual void OnTurnEnd() = 0;
  // A connection has sent its replies or is gone, or a call has ended. Handlers that wait for
  // HasRoom may check again.
  virtual void OnReplyRoom() = 0;

 protected:
  ~RpcService() = default;
};

class RpcServer final : public AcceptHandler, private TurnHook {
 public:
  RpcServer(Reactor& reactor, RpcOptions options, RpcShared* shared);
  ~RpcServer();  // REQUIRES: Shutdown has finished

  // Must be called once, before Listen. The service must outlive Shutdown.
  void SetService(RpcService* service) { service_ = service; }
  Result<uint16_t> Listen(const ListenOptions& options);  // returns the port
  // Refuses new connections and requests, waits until the requests in progress are answered and the
  // replies are sent, then closes all connections. After `limit_ns` it closes the remaining
  // connections at once, but it still waits until their calls have ended. Some of these may end only
  // if what they wait for is given up: `on_late` is called once for that.
  Task<void> Shutdown(Nanos limit_ns, std::function<void()> on_late = {});

  // -- answering: BeginReply returns the string to which one whole frame must be appended. EndReply
  // must follow without a suspension in between. `likely_bytes`: what the reply takes, as far as is known.
  std::string* BeginReply(const RequestId& id);
  void EndReply(const RequestId& id);
  template <typename Body>
  void Reply(const RequestId& id, std::string_view method, const Body& result, size_t likely_bytes = 0) {
    std::string* out = BeginReply(id);
    // So that a large reply does not grow, and move, again and again.
    if (likely_bytes > out->capacity() - out->size()) ReserveExactly(out, out->size() + likely_bytes);
    codec_.Write(Header(id, method, apache::thrift::protocol::T_REPLY), result, out);
    EndReply(id);
  }
  void ReplyError(const RequestId& id, std::string_view method, const api::KvError& error);
  void ReplyOverloaded(const RequestId& id, std::string_view method, size_t needed_bytes = 0) {
    metrics_.overloaded_total.Add();
    ReplyError(id, method, OverloadedError(needed_bytes));
  }
  void ReplyException(const RequestId& id, std::string_view method,
                      TApplicationException::TApplicationExceptionType type, std::string_view message);

  // The client matches replies by sequence ID: from now on no reply on this connection waits for
  // another.
  void AllowOutOfOrderReplies(const RequestId& id) { id.connection->AllowOutOfOrder(); }

  // Who has sent the request. Null if the client is gone.
  const Identity* IdentityOf(const RequestId& id) const {
    const Connection* connection = id.connection->connection_;
    return connection ? &connection->identity() : nullptr;
  }
  // The request has proved that its client has this name. It holds for the whole connection.
  void SetPrincipal(const RequestId& id, std::string principal) {
    if (Connection* connection = id.connection->connection_) connection->SetPrincipal(std::move(principal));
  }

  // Returns false while the connection holds max_reply_bytes of unsent replies. A large reply
  // should then wait for OnReplyRoom. For the oldest unanswered request only bytes that are ready
  // to be sent count, because everything else waits for that request. `call_bytes` is how much each
  // call that runs on the connection is expected to add.
  bool HasRoom(const RequestId& id, size_t call_bytes = 0) const {
    return id.connection->HasRoom(id.sequence, call_bytes);
  }

  // Returns true if a reply is ready that may only leave after the reply to this request. A request
  // that only waits should then end, because such replies take memory.
  bool HoldsUpReplies(const RequestId& id) const { return id.connection->HoldsUpReplies(id.sequence); }
  // Shutdown has begun. Calls that only wait should end.
  bool stopping() const { return stopping_; }
  // The client is gone. An empty reply is enough to end the request.
  bool IsClosed(const RequestId& id) const { return id.connection->state_ == RpcConnection::State::kClosed; }

  // -- calls that outlive OnRequest
  void BeginCall(const RequestId& id) { ++id.connection->running_; }
  void EndCall(const RequestId& id);
  BudgetAccount& account() { return account_; }
  int64_t memory_limit_bytes() const { return shared_->memory.limit_bytes(); }
  // Returns true when memory is exhausted and everything that can be refused should be.
  bool Exhausted() const { return account_.Exhausted(); }

  // Makes the service's OnTurnEnd run in this turn.
  void ArmTurnEnd() {
    if (!in_turn_end_) reactor_.ArmTurnHook(this);
    service_pending_ = true;
  }

  static MessageHeader Header(const RequestId& id, std::string_view method, ThriftMessageType type) {
    return {id.protocol, type, id.seqid, method};
  }
  // `needed_bytes` is how much memory the request would take. If that exceeds the node's whole
  // budget, the error is TOO_LARGE (not retryable) instead of OVERLOADED.
  api::KvError OverloadedError(size_t needed_bytes = 0) const;
  Reactor& reactor() { return reactor_; }
  ThriftCodec& codec() { return codec_; }
  RpcMetrics& metrics() { return metrics_; }
  // The names are the same in all programs. `owner` removes them.
  void RegisterMetrics(Registry* registry, const void* owner, const MetricLabels& labels) const;
  // Updates the gauges that no event updates. Metrics are published at intervals.
  void PublishMetrics() { metrics_.buffered_bytes.Set(account_.in_use_bytes()); }
  const RpcOptions& options() const { return options_; }

 private:
  friend class RpcConnection;
  struct WatchTimer : Timer {
    RpcServer* server = nullptr;
  };
  void OnAccept(Connection* connection) override;
  void OnTurnEnd() override;
  // Closes a connection that has been idle for long, so that a new one gets its place. Returns
  // false if none was found.
  bool EvictOne();
  void OnWatch();  // closes connections that have stalled or are idle
  // While memory is short, closes the connection with the most replies that its peer does not read, and returns it.
  const RpcConnection* CloseWorstReader();
  void Watch(RpcConnection* c, Nanos now);
  bool TooSlow(RpcConnection::Progress* progress, bool owed, size_t held_bytes, uint64_t moved_bytes, Nanos now) const;
  void NoteClosed();  // a connection has ended
  void Remove(RpcConnection* c);
  void MarkDirty(RpcConnection* c);
  // Flushes the connection again at the end of the next turn. REQUIRES: it is on no list
  void ContinueInNextTurn(RpcConnection* c);
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
  std::vector<RpcConnection*> later_;  // dirty, but their turn's work is done
  uint32_t turn_ = 0;                  // counts OnTurnEnd
  std::vector<std::string> buffers_;   // spare strings for replies
  size_t buffers_bytes_ = 0;
  std::string discarded_;  // receives the replies to closed connections
  uint32_t refused_ = 0;   // connections in State::kRefused
  bool in_turn_end_ = false, service_pending_ = false, stopping_ = false, listening_ = false;
  WatchTimer watch_;
  bool was_short_ = false;  // of memory, when OnWatch was called before
  Nanos next_log_ns_ = 0;
  uint64_t unlogged_ = 0;
};

}  // namespace pando
