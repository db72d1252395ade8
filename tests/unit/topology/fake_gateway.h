// FakeGateway: a server of HTTP that answers as a test says, on the test's own reactor. It stands in
// for an etcd that gives bad answers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/io/reactor.h"

namespace pando::topology_test {

class FakeGateway final : private AcceptHandler {
 public:
  struct Answer {
    std::string bytes;   // as they are
    bool close = false;  // when they are sent
  };
  // Gets the path and the body of a request.
  using Script = std::function<Answer(const std::string& path, const std::string& body)>;

  FakeGateway(Reactor& reactor, Script script) : reactor_(reactor), script_(std::move(script)) {
    Result<uint16_t> port = reactor_.Listen({}, this);
    CHECK(port.ok()) << port.status().ToString();
    address_ = fmt::format("127.0.0.1:{}", *port);
  }
  Task<void> Stop() {
    reactor_.StopListening(this);
    for (auto& peer : peers_) peer->connection->Close(true);
    while (!peers_.empty()) co_await Sleep(reactor_, kMillisecond);
  }
  const std::string& address() const { return address_; }
  void SetScript(Script script) { script_ = std::move(script); }
  const std::vector<std::string>& paths() const { return paths_; }
  const std::vector<std::string>& heads() const { return heads_; }
  size_t requests() const { return paths_.size(); }
  size_t connections() const { return connections_; }

  static Answer Json(const std::string& body, int status = 200) {
    return {fmt::format("HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}", status,
                        body.size(), body),
            false};
  }
  static Answer Hang() { return {}; }
  static Answer Close() { return {"", true}; }
  // A stream that stays open.
  static Answer Stream(const std::string& lines) {
    return {fmt::format("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n", lines.size(), lines),
            false};
  }

 private:
  struct Peer final : ConnectionHandler {
    FakeGateway* gateway = nullptr;
    Connection* connection = nullptr;
    std::string received;
    void OnData(std::span<const char> bytes) override {
      received.append(bytes.data(), bytes.size());
      gateway->Take(this);
    }
    void OnSent() override {}
    void OnClosed(const Status&) override {
      std::erase_if(gateway->peers_, [this](const auto& peer) { return peer.get() == this; });
    }
  };
  void OnAccept(Connection* connection) override {
    ++connections_;
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->gateway = this;
    peers_.back()->connection = connection;
    connection->SetHandler(peers_.back().get());
  }
  void Take(Peer* peer) {
    for (;;) {
      const size_t head = peer->received.find("\r\n\r\n");
      if (head == std::string::npos) return;
      const size_t at = peer->received.find("Content-Length: ");
      CHECK_LT(at, head);
      const size_t body = std::stoul(peer->received.substr(at + 16));
      if (peer->received.size() < head + 4 + body) return;
      const size_t space = peer->received.find(' ');
      paths_.push_back(peer->received.substr(space + 1, peer->received.find(' ', space + 1) - space - 1));
      heads_.push_back(peer->received.substr(0, head));
      Answer answer = script_(paths_.back(), peer->received.substr(head + 4, body));
      peer->received.erase(0, head + 4 + body);
      if (!answer.bytes.empty()) peer->connection->Send(&answer.bytes);
      if (answer.close) return peer->connection->Close(false);
    }
  }

  Reactor& reactor_;
  Script script_;
  std::string address_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::string> paths_, heads_;
  size_t connections_ = 0;
};

}  // namespace pando::topology_test
