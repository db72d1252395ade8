// HttpServer: /metrics, /healthz and /readyz for machines and people.
//
// Threads: its own; the one thread of a node that is not a reactor. It reads atomics only (the Registry's metrics and
// the two flags), so it can never hold up a reactor.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "src/base/result.h"
#include "src/metrics/registry.h"

namespace pando {

// What a node tells the world about itself; written by the node, read here.
struct NodeHealth {
  std::atomic<bool> ready{false};   // takes requests
  std::atomic<bool> failed{false};  // the engine has stopped
};

class HttpServer {
 public:
  // Listens and starts its thread. All outlive the server.
  static Result<std::unique_ptr<HttpServer>> Start(const std::string& host, uint16_t port, const Registry* registry,
                                                   const NodeHealth* health);
  ~HttpServer();  // stops and joins
  uint16_t port() const { return port_; }

 private:
  class Impl;
  HttpServer();
  std::unique_ptr<Impl> impl_;
  uint16_t port_ = 0;
};

}  // namespace pando
