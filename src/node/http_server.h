// HttpServer: /metrics, /healthz and /readyz, for monitoring systems and people.
//
// It runs on a reactor beside the clients' listener, so no client of the page can block another: a
// connection that sends its request slowly, or not at all, costs a little memory until its deadline.
// A connection carries one request; the reply closes it.
//
// Threads: one reactor. The registry and the health flags are read here and written elsewhere; both
// are safe for that (a mutex around registration, atomics for the values).
//
// Invariants
//   HS1  At most kMaxHttpConnections connections exist. One more closes the oldest, preferably one
//       that has not sent its request, so that idle connections never keep a health check out.
//   HS2  A connection ends at most kHttpRequestLimitNs after it was accepted, plus the time that the
//       network allows for sending queued bytes (S4).
//   HS3  Reply bytes count against the node's request memory from the moment they exist.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/metrics/metrics.h"
#include "src/metrics/registry.h"

namespace pando {

inline constexpr size_t kMaxHttpConnections = 16;
inline constexpr size_t kMaxHttpRequestBytes = 8u << 10;
inline constexpr Nanos kHttpRequestLimitNs = 5 * kSecond;
// Rendering takes about a millisecond of the reactor. A page of this age is sent again as it is.
inline constexpr Nanos kHttpPageAgeNs = 20 * kMillisecond;

// What a node says about itself. The node writes it, on any reactor; this page reads it.
struct NodeHealth {
  std::atomic<bool> ready{false};   // takes requests
  std::atomic<bool> failed{false};  // the engine has stopped
};

struct HttpMetrics {
  Gauge connections;
  Counter requests_total, bad_requests_total, evicted_total, timed_out_total;
};

class HttpServer final : public AcceptHandler {
 public:
  // `registry`, `health` and `memory` outlive the server.
  HttpServer(Reactor& reactor, const Registry* registry, const NodeHealth* health, MemoryBudget* memory);
  ~HttpServer();  // REQUIRES: Shutdown has finished

  // Returns the port. kAlreadyExists when another process listens there: the port is never shared.
  // `sockets` bounds the descriptors of the page, those that are being closed included. It outlives
  // the reactor; null = unbounded.
  Result<uint16_t> Listen(const std::string& host, uint16_t port, ConnectionBudget* sockets = nullptr);
  // Refuses new connections, cuts off what is open, and returns when all of it is closed.
  Task<void> Shutdown();

  uint16_t port() const { return port_; }
  const HttpMetrics& metrics() const { return metrics_; }

 private:
  class Peer;
  friend class Peer;
  void OnAccept(Connection* connection) override;
  void EvictOne();
  void Remove(Peer* peer);
  // The whole reply to one request, head included.
  std::string Answer(std::string_view method, std::string_view target);
  const std::string& MetricsPage();

  Reactor& reactor_;
  const Registry* const registry_;
  const NodeHealth* const health_;
  BudgetAccount account_;
  HttpMetrics metrics_;
  uint16_t port_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;  // oldest first
  WaitQueue all_closed_;
  std::string page_;
  Nanos page_rendered_ns_ = 0;
};

}  // namespace pando
