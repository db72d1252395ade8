#include "src/node/http_server.h"

#include <httplib.h>
#include <sched.h>

#include <thread>

namespace pando {

namespace {

constexpr time_t kTimeoutSeconds = 5;

}  // namespace

class HttpServer::Impl {
 public:
  httplib::Server server;
  std::thread thread;
};

HttpServer::HttpServer() : impl_(std::make_unique<Impl>()) {}

HttpServer::~HttpServer() {
  impl_->server.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& host, uint16_t port, const Registry* registry,
                                                      const NodeHealth* health) {
  std::unique_ptr<HttpServer> http(new HttpServer);
  httplib::Server& server = http->impl_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(1); };
  server.set_keep_alive_max_count(1);  // one worker: nobody may sit on it
  server.set_read_timeout(kTimeoutSeconds, 0);
  server.set_write_timeout(kTimeoutSeconds, 0);
  server.set_payload_max_length(4096);
  server.Get("/metrics", [registry](const httplib::Request&, httplib::Response& response) {
    response.set_content(registry->Render(), "text/plain; version=0.0.4");
  });
  server.Get("/healthz", [health](const httplib::Request&, httplib::Response& response) {
    bool failed = health->failed.load(std::memory_order_relaxed);
    response.status = failed ? 500 : 200;
    response.set_content(failed ? "the engine has stopped; see the log\n" : "ok\n", "text/plain");
  });
  server.Get("/readyz", [health](const httplib::Request&, httplib::Response& response) {
    bool ready = health->ready.load(std::memory_order_relaxed);
    response.status = ready ? 200 : 503;
    response.set_content(ready ? "ready\n" : "not ready: starting, stopping or failed\n", "text/plain");
  });
  int bound = -1;
  if (port == 0) {
    bound = server.bind_to_any_port(host.c_str());
  } else if (server.bind_to_port(host.c_str(), port)) {
    bound = port;
  }
  if (bound <= 0) {
    return Error(Code::kAlreadyExists,
                 "cannot listen for HTTP on {}:{}: another process uses this port, or the address "
                 "is not of this machine; choose another --http_port",
                 host, port);
  }
  http->port_ = static_cast<uint16_t>(bound);
  http->impl_->thread = std::thread([&server] { server.listen_after_bind(); });
  // The library forgets a stop() that comes before its loop has begun.
  while (!server.is_running()) sched_yield();
  return http;
}

}  // namespace pando
