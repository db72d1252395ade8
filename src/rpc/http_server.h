// HttpServer serves /metrics, /healthz and /readyz to monitoring systems and people, and the pages that AddPage adds.
//
// It runs on a reactor next to the Thrift listener. No client can block another: a connection that
// sends its request slowly, or not at all, only costs a little memory until its deadline. Each
// connection carries one request and is closed after the reply.
//
// Threads: one reactor. Other threads write the registry and the health flags that this class
// reads. That is safe: a mutex guards registration, and the values are atomics.
//
// Invariants
//   HS1  At most kMaxHttpConnections connections exist, not counting those that are being closed. A
//       further one closes the oldest connection that has not sent its request, or else the oldest,
//       so that idle connections never lock out a health check. Those that are being closed make
//       room as well, the oldest first (S4).
//   HS2  A connection ends at most kHttpRequestLimitNs after it was accepted, plus the time that
//       the network allows for sending queued bytes (S4).
//   HS3  Reply bytes count against the node's request memory from the moment this reactor has them.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/byte_filter.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/metrics/registry.h"

namespace pando {

inline constexpr char kHttpHtml[] = "text/html; charset=utf-8", kHttpJson[] = "application/json";
inline constexpr size_t kMaxHttpConnections = 16;
inline constexpr size_t kMaxHttpRequestBytes = 8u << 10;
inline constexpr Nanos kHttpRequestLimitNs = 5 * kSecond;
// A page is rendered again only when it is older than this. Rendering /metrics takes about 1 ms, so
// it is offloaded; requests that arrive meanwhile get the same page.
inline constexpr Nanos kHttpPageAgeNs = 20 * kMillisecond;

// The quarantined partitions, one line for each. Any thread may use it.
class QuarantineList {
 public:
  void Set(uint32_t partition, std::string line);
  void Remove(uint32_t partition);
  // "ok", or that it is ok but for these partitions; with a line break at the end.
  std::string Health() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint32_t, std::string> lines_;
};

// The node's state. The node writes it from any reactor; HttpServer reads it.
struct NodeHealth {
  std::atomic<bool> ready{false};   // the node accepts requests
  std::atomic<bool> failed{false};  // the engine has stopped
  // Called on the HTTP server's reactor: why the process is not ready, however `ready` is; empty: nothing is known.
  std::function<std::string()> trouble;
  QuarantineList quarantined;
};

struct HttpMetrics {
  Gauge connections;
  Counter requests_total, bad_requests_total, evicted_total, timed_out_total;
};

// What a page shows: 200 and the page, or, if what it shows is not known at the moment, 503 and a text that says why.
struct HttpPage {
  HttpPage(std::string page) : text(std::move(page)) {}  // NOLINT(google-explicit-constructor)
  static HttpPage NotKnown(std::string why) {
    HttpPage page(std::move(why));
    page.known = false;
    return page;
  }
  std::string text;
  bool known = true;
};

class HttpServer final : public AcceptHandler {
 public:
  // All that is passed in outlives the server. `filters` are put on every connection; null = none.
  HttpServer(Reactor& reactor, const Registry* registry, const NodeHealth* health, MemoryBudget* memory,
             ByteFilters* filters = nullptr);
  ~HttpServer();  // REQUIRES: Shutdown has finished

  // A page that `make` renders. `type`: kHttpHtml or kHttpJson. REQUIRES: Listen was not called.
  void AddPage(std::string path, std::string type, std::function<Task<HttpPage>()> make);
  // Returns the port. kAlreadyExists if another process listens on it: the port is never shared.
  // Of `budgets`, that of the HTTP listeners bounds this server's socket descriptors, including
  // those that are being closed. They outlive the reactor; null = no bound.
  Result<uint16_t> Listen(const std::string& host, uint16_t port, ConnectionBudgets* budgets = nullptr);
  // Refuses new connections, closes the open ones at once, and returns when all of them are closed.
  Task<void> Shutdown();

  uint16_t port() const { return port_; }
  const HttpMetrics& metrics() const { return metrics_; }
  void RegisterMetrics(Registry* registry) const;  // this server is their owner

 private:
  class Peer;
  friend class Peer;
  struct Page {
    std::string path, type;
    std::function<Task<HttpPage>()> make;
    std::string text;  // empty: none that may be sent again
    Nanos rendered_ns = 0;
    bool rendering = false;
  };
  void OnAccept(Connection* connection) override;
  void EvictOne();
  void Remove(Peer* peer);
  // Answers one request, now or when its page is rendered.
  void Answer(Peer* peer, std::string_view method, std::string_view target);
  void AnswerPage(Page* page, Peer* peer, bool head_only);
  Task<void> RenderPage(Page* page);
  Task<HttpPage> RenderMetrics();

  Reactor& reactor_;
  const Registry* const registry_;
  const NodeHealth* const health_;
  ByteFilters* const filters_;
  BudgetAccount account_;
  HttpMetrics metrics_;
  uint16_t port_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;  // oldest first
  WaitQueue all_closed_;
  std::vector<std::unique_ptr<Page>> pages_;
  TaskGroup tasks_;  // RenderPage
};

}  // namespace pando
