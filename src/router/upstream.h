// Upstream: the connections of one reactor of a router to one node.
//
// A few connections are kept open, and connected again when they end. Calls share them: replies come in any order, so
// none waits for a slow one. Calls that take long (scans, watches) have a connection of their own, because a node
// reads no further requests from a connection with many in progress. So have gets that may wait at a node until it has
// what they ask for, and questions for the map, so that it is heard of in any case.
//
// The circuit breaker: a node that cannot be connected to, or that leaves three calls in a row without an answer
// for half a second or more, is out. Calls fail at once then, without having been sent, and a connection is tried again
// every now and then. An error of a connection is not a dead node: nobody but the nodes themselves changes a route.
//
// Threads: one reactor. Callers hold the Upstream and the Link by shared_ptr, since a node may leave the map meanwhile.
//
// A connection is up once the node has said, in its hello, that it belongs to the cluster of the router. Nothing but
// hello is sent before. A node that is older than HelloReply.cluster_id is taken at its map (RouteKeeper).
//
// Invariants
//   UP1  At most kMaxCallsPerLink calls (kMaxLongCalls of those that take long or may wait) are unanswered on one
//        connection; more are refused before they are sent.
//   UP2  A call that Pick refuses was not sent.
//   UP3  Of the calls that take long, and of those that may wait, no client has more than kLongShare times those that
//        there is still room for (a dynamic threshold, Choudhury and Hahne 1998). So there is always room for one more
//        client.
//   UP4  A node that says that it belongs to another cluster is sent nothing but hello.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "src/base/ids.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/router/recent_latency.h"
#include "src/rpc/rpc_client.h"

namespace pando {

// What a router calls itself in hello, before its version.
inline constexpr char kRouterClientName[] = "kvrouter ";

enum class CallKind : uint8_t {
  kPoint,
  kWaiting,  // of one key, but the node may wait until it has what is asked for
  kLong,
  kMap
};
// Calls of these kinds are counted for their clients (UP3).
inline bool HasShares(CallKind kind) { return kind == CallKind::kWaiting || kind == CallKind::kLong; }

struct UpstreamMetrics {
  Counter connects_total, connect_failures_total, broken_total, tripped_total, refused_total, calls_total;
  Counter refused_share_total;  // because their client has its share
  Counter unread_total;         // answers, for lack of memory
};

struct UpstreamOptions {
  std::string address;  // host:port
  Nanos connect_timeout_ns = kSecond;
  Nanos first_retry_ns = 20 * kMillisecond, max_retry_ns = kSecond;
  UpstreamMetrics* metrics = nullptr;  // outlives it
  BudgetAccount* memory = nullptr;     // for replies; outlives it; null: not counted
  BudgetAccount* answers = nullptr;    // for those to calls that take long (LongWork); null: `memory`
  std::function<void()> on_up;         // a connection can be used
  // Whether a node that says it belongs to this cluster may be used. Null: any may.
  std::function<Status(const Uuid& cluster)> admit;
};

class Upstream {
 public:
  static constexpr size_t kPointLinks = 2, kWaitingLinks = 3, kLongLinks = 1, kMapLinks = 1;
  static constexpr size_t kMaxCallsPerLink = 1024;
  static constexpr size_t kMaxLongCalls = 120;  // a node reads on a connection until 128 are in progress
  static constexpr size_t kLongShare = 2;       // a client alone gets two thirds
  static constexpr int kMaxSilentCalls = 3;     // in a row
  static constexpr Nanos kSilenceNs = 500 * kMillisecond;

  struct Link {
    std::unique_ptr<RpcClient> client;
    bool up = false;      // it is connected, and has said hello
    bool clocks = false;  // the node takes Context.hlc
  };

  Upstream(Reactor& reactor, UpstreamOptions options);
  ~Upstream();  // REQUIRES: Stop has finished

  void Start();
  // Ends the connections, and the calls on them with kAborted.
  Task<void> Stop();

  // A connection for a call, of this client (RpcExchange::owner, client_share.h). kUnavailable: there is none, and why;
  // kOverloaded: too many calls are in progress.
  Result<std::shared_ptr<Link>> Pick(CallKind kind, uint64_t client = 0);
  // What came of a call: the node has answered it, or has not within `waited_ns`. A short wait proves nothing.
  void NoteAnswer() { silent_calls_ = 0; }
  void NoteSilence(Nanos waited_ns);

  const std::string& address() const { return options_.address; }
  bool up() const;
  bool tried() const { return tried_; }  // a connection was up, or could not be made
  size_t calls_in_progress() const;
  size_t long_calls_in_progress() const;
  uint64_t trips() const { return trips_; }  // of the circuit breaker
  // It takes ScanRequest.slices, as it has said last.
  bool reads_slices() const { return reads_slices_; }
  // How long requests of keys took.
  RecentLatency& gets() { return gets_; }
  RecentLatency& writes() { return writes_; }
  const Status& trouble() const { return trouble_; }  // why it is not up

 private:
  struct Slot {
    std::shared_ptr<Link> link;  // null while it is not connected
    bool ended = false;          // its connection has
  };
  // Keeps one connection until Stop.
  Task<void> Keep(Slot* slot);
  Task<Status> Connect(Link* link, Slot* slot);
  Task<Status> SayHello(Link* link);
  bool IsUp(CallKind kind) const;
  std::span<const Slot> SlotsOf(CallKind kind) const;

  Reactor& reactor_;
  const UpstreamOptions options_;
  std::string host_;
  uint16_t port_ = 0;
  std::array<Slot, kPointLinks + kWaitingLinks + kLongLinks + kMapLinks> slots_;
  TaskGroup tasks_;
  WaitQueue changed_;  // a connection has come up or ended, or Stop was called
  bool stopping_ = false, tried_ = false, reads_slices_ = false;
  int silent_calls_ = 0;
  uint64_t trips_ = 0;
  RecentLatency gets_, writes_;
  Status trouble_;
};

}  // namespace pando
