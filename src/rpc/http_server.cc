#include "src/rpc/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

#include "src/base/check.h"
#include "src/io/offload.h"

namespace pando {

namespace {

namespace http = boost::beast::http;

constexpr size_t kMaxQuarantineLines = 64;  // on the health page
constexpr char kText[] = "text/plain; charset=utf-8";
constexpr char kExposition[] = "text/plain; version=0.0.4";

std::string Reply(int code, std::string_view reason, std::string_view type, std::string_view body, bool head_only,
                  std::string_view extra = "") {
  std::string out = fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{}"
      "Connection: close\r\n\r\n",
      code, reason, type, body.size(), extra);
  if (!head_only) out += body;
  return out;
}

// A browser runs and loads nothing from a page.
std::string ReplyPage(std::string_view type, std::string_view text, bool head_only) {
  const bool html = type == kHttpHtml;
  return Reply(200, "OK", type, text, head_only,
               html ? "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n" : "");
}

// Reads only what any thread may read (registry.h).
struct RenderRegistry {
  const Registry* registry;
  std::string operator()() const { return registry->Render(); }
};

}  // namespace

// One connection, from accept until OnClosed. The server owns it.
class HttpServer::Peer final : public ConnectionHandler, private Timer {
 public:
  Peer(HttpServer* server, Connection* connection) : server_(server), connection_(connection) {
    parser_.header_limit(kMaxHttpRequestBytes);
    on_fire = [](Timer* t) { static_cast<Peer*>(t)->OnDeadline(); };
    server_->reactor_.ArmTimer(this, server_->reactor_.NowNs() + kHttpRequestLimitNs);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    server_->reactor_.CancelTimer(this);
    server_->account_.Release(reserved_bytes_);
  }

  bool asked() const { return asked_; }
  bool closing() const { return closing_; }
  void WaitFor(const Page* page, bool head_only) { page_ = page, head_only_ = head_only; }
  const Page* page() const { return page_; }
  bool head_only() const { return head_only_; }
  void Send(std::string reply) {
    answered_ = true;
    page_ = nullptr;
    // HS3: from here on the bytes of the reply count.
    reserved_bytes_ = static_cast<int64_t>(reply.size());
    server_->account_.Force(reserved_bytes_);
    connection_->Send(&reply);
    connection_->Close(/*now=*/false);  // the network limits how long sending may take
  }
  void CloseNow() {
    closing_ = true;
    connection_->Close(/*now=*/true);  // the event loop calls OnClosed later, which frees this
  }

 private:
  void OnData(std::span<const char> bytes) override {
    if (asked_ || closing_) return;
    // Bytes that the parser cannot consume yet stay in request_, which never exceeds the limit.
    const size_t room = kMaxHttpRequestBytes - request_.size();
    request_.append(bytes.data(), std::min(room, bytes.size()));
    boost::system::error_code error;
    request_.erase(0, parser_.put(boost::asio::const_buffer(request_.data(), request_.size()), error));
    if (!error && !parser_.is_header_done()) return;
    if (error == http::error::need_more && request_.size() < kMaxHttpRequestBytes) return;
    asked_ = true;
    std::string().swap(request_);
    if (error) {
      server_->metrics_.bad_requests_total.Add();
      const bool too_long = error == http::error::need_more || error == http::error::header_limit;
      const std::string why = too_long ? fmt::format("the request exceeds {} bytes\n", kMaxHttpRequestBytes)
                                       : fmt::format("this is not an HTTP request: {}\n", error.message());
      return Send(Reply(400, "Bad Request", kText, why, /*head_only=*/false));
    }
    server_->metrics_.requests_total.Add();
    const auto method = parser_.get().method_string();
    const auto target = parser_.get().target();
    server_->Answer(this, {method.data(), method.size()}, {target.data(), target.size()});
  }
  void OnSent() override {}
  void OnClosed(const Status& /*reason*/) override { server_->Remove(this); }

  void OnDeadline() {
    if (answered_ || closing_) return;
    server_->metrics_.timed_out_total.Add();
    CloseNow();
  }

  HttpServer* const server_;
  Connection* const connection_;
  http::request_parser<http::empty_body> parser_;
  std::string request_;  // received header bytes that the parser has not consumed
  int64_t reserved_bytes_ = 0;
  const Page* page_ = nullptr;              // that it waits for
  bool asked_ = false, head_only_ = false;  // the request is read
  bool answered_ = false, closing_ = false;
};

HttpServer::HttpServer(Reactor& reactor, const Registry* registry, const NodeHealth* health, MemoryBudget* memory,
                       ByteFilters* filters)
    : reactor_(reactor),
      registry_(registry),
      health_(health),
      filters_(filters),
      account_(memory),
      all_closed_(reactor) {
  AddPage("/metrics", kExposition, [this] { return RenderMetrics(); });
}

HttpServer::~HttpServer() {
  CHECK(peers_.empty()) << "an HttpServer was destroyed before Shutdown finished";
  for (const auto& page : pages_) account_.Release(static_cast<int64_t>(page->text.size()));
}

void HttpServer::AddPage(std::string path, std::string type, std::function<Task<HttpPage>()> make) {
  auto page = std::make_unique<Page>();
  page->path = std::move(path);
  page->type = std::move(type);
  page->make = std::move(make);
  pages_.push_back(std::move(page));
}

Result<uint16_t> HttpServer::Listen(const std::string& host, uint16_t port, ConnectionBudgets* budgets) {
  ListenOptions options;
  options.host = host;
  options.port = port;
  options.reuse_port = false;
  options.kind = ListenerKind::kHttp;
  options.budgets = budgets;
  Result<uint16_t> bound = reactor_.Listen(options, this);
  if (!bound.ok()) {
    const bool taken = bound.code() == Code::kAlreadyExists;
    return Error(bound.code(), "cannot serve /metrics over HTTP: {}. {}", bound.status().message(),
                 taken ? "Choose another --http_port (0 picks a free port, -1 disables HTTP)"
                       : "Its host is that of --listen: give an address of this machine");
  }
  port_ = *bound;
  return bound;
}

Task<void> HttpServer::Shutdown() {
  if (std::exchange(port_, 0) != 0) reactor_.StopListening(this);
  for (auto& peer : peers_) {
    if (!peer->closing()) peer->CloseNow();
  }
  // Every connection has been told to close. Remove notifies all_closed_ when the last one is gone.
  while (!peers_.empty()) co_await all_closed_.Wait();
  co_await tasks_.Drain();  // a page that is being rendered reads the registry
}

void HttpServer::OnAccept(Connection* connection) {
  if (filters_) {
    FilterOptions options;
    options.memory = &account_;
    connection = AddFilter(reactor_, connection, filters_->MakeFilter(reactor_), options);
  }
  if (peers_.size() >= kMaxHttpConnections) EvictOne();
  peers_.push_back(std::make_unique<Peer>(this, connection));
  connection->SetHandler(peers_.back().get());
  metrics_.connections.Set(static_cast<int64_t>(peers_.size()));
}

void HttpServer::EvictOne() {
  auto waiting = [](const auto& peer) { return !peer->closing() && !peer->asked(); };
  auto open = [](const auto& peer) { return !peer->closing(); };
  auto victim = std::find_if(peers_.begin(), peers_.end(), waiting);
  if (victim == peers_.end()) victim = std::find_if(peers_.begin(), peers_.end(), open);
  if (victim == peers_.end()) return;  // every connection is already closing
  metrics_.evicted_total.Add();
  (*victim)->CloseNow();
}

void HttpServer::Remove(Peer* peer) {
  std::erase_if(peers_, [peer](const auto& p) { return p.get() == peer; });
  metrics_.connections.Set(static_cast<int64_t>(peers_.size()));
  if (peers_.empty()) all_closed_.NotifyAll();
}

void QuarantineList::Set(uint32_t partition, std::string line) {
  const std::lock_guard lock(mutex_);
  lines_[partition] = std::move(line);
}

void QuarantineList::Remove(uint32_t partition) {
  const std::lock_guard lock(mutex_);
  lines_.erase(partition);
}

std::string QuarantineList::Health() const {
  const std::lock_guard lock(mutex_);
  if (lines_.empty()) return "ok\n";
  std::string text = lines_.size() == 1 ? "ok, but 1 partition is quarantined\n"
                                        : fmt::format("ok, but {} partitions are quarantined\n", lines_.size());
  size_t shown = 0;
  for (const auto& [partition, line] : lines_) {
    if (shown++ == kMaxQuarantineLines) break;
    text += line + "\n";
  }
  return text;
}

void HttpServer::Answer(Peer* peer, std::string_view method, std::string_view target) {
  const bool head_only = method == "HEAD";
  if (method != "GET" && !head_only) {
    return peer->Send(Reply(405, "Method Not Allowed", kText, "this server answers only GET and HEAD\n", false,
                            "Allow: GET, HEAD\r\n"));
  }
  const std::string_view path = target.substr(0, target.find('?'));
  for (const auto& page : pages_) {
    if (path == page->path) return AnswerPage(page.get(), peer, head_only);
  }
  if (path == "/healthz") {
    if (!health_->failed.load(std::memory_order_relaxed)) {
      return peer->Send(Reply(200, "OK", kText, health_->quarantined.Health(), head_only));
    }
    return peer->Send(Reply(500, "Internal Server Error", kText, "the engine has stopped; see the log\n", head_only));
  }
  if (path == "/readyz") {
    const std::string trouble = health_->trouble ? health_->trouble() : std::string();
    if (trouble.empty() && health_->ready.load(std::memory_order_relaxed)) {
      return peer->Send(Reply(200, "OK", kText, "ready\n", head_only));
    }
    const bool failed = health_->failed.load(std::memory_order_relaxed);
    const std::string why = trouble.empty() ? "starting, stopping or failed" : trouble;
    return peer->Send(Reply(503, "Service Unavailable", kText, "not ready: " + why + "\n", head_only,
                            failed ? "" : "Retry-After: 1\r\n"));
  }
  std::string others;
  for (const auto& page : pages_) others += page->path + ", ";
  peer->Send(Reply(404, "Not Found", kText, "try " + others + "/healthz or /readyz\n", head_only));
}

void HttpServer::AnswerPage(Page* page, Peer* peer, bool head_only) {
  if (!page->text.empty() && reactor_.NowNs() - page->rendered_ns < kHttpPageAgeNs) {
    return peer->Send(ReplyPage(page->type, page->text, head_only));
  }
  peer->WaitFor(page, head_only);
  if (!std::exchange(page->rendering, true)) tasks_.Spawn(RenderPage(page));
}

Task<HttpPage> HttpServer::RenderMetrics() { co_return co_await Offload(reactor_, RenderRegistry{registry_}); }

Task<void> HttpServer::RenderPage(Page* page) {
  // Suspends while another thread renders. Peers may come and go meanwhile.
  Task<HttpPage> making = page->make();
  HttpPage made = co_await making;
  page->rendering = false;
  account_.Release(static_cast<int64_t>(page->text.size()));
  page->text = made.known ? made.text : "";
  account_.Force(static_cast<int64_t>(page->text.size()));
  page->rendered_ns = reactor_.NowNs();
  for (auto& peer : peers_) {
    if (peer->page() != page || peer->closing()) continue;
    peer->Send(made.known ? ReplyPage(page->type, made.text, peer->head_only())
                          : Reply(503, "Service Unavailable", kText, made.text, peer->head_only()));
  }
}

void HttpServer::RegisterMetrics(Registry* registry) const {
  const HttpMetrics& m = metrics_;
  registry->Add(this, "kv_http_connections", "Open connections to the HTTP port.", {}, &m.connections);
  registry->Add(this, "kv_http_requests_total", "Requests to the HTTP port.", {}, &m.requests_total);
  registry->Add(this, "kv_http_bad_requests_total", "Requests to the HTTP port that were malformed or too large.", {},
                &m.bad_requests_total);
  registry->Add(this, "kv_http_evicted_connections_total",
                "Connections to the HTTP port closed to make room for newer ones.", {}, &m.evicted_total);
  registry->Add(this, "kv_http_timed_out_connections_total",
                "Connections to the HTTP port closed because no request arrived in time.", {}, &m.timed_out_total);
}

}  // namespace pando
