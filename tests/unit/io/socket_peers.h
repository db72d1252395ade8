// Ends of connections for tests: they record what happens to them, and echo if they are told to.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "tests/support/sim_random.h"

namespace pando {

inline void Fill(char* data, size_t bytes, uint64_t seed) {
  SimRandom random(seed);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(random.Next());
}

// Records all events. Echoes the received bytes if `echo` is set.
struct Peer final : ConnectionHandler {
  Reactor* reactor = nullptr;
  Connection* connection = nullptr;
  bool echo = false;
  std::string received;
  int sent_events = 0;
  bool closed = false;
  Status reason;
  bool in_call = false;
  std::unique_ptr<WaitQueue> changed;

  void Attach(Reactor& r, Connection* c) {
    reactor = &r;
    connection = c;
    changed = std::make_unique<WaitQueue>(r);
    c->SetHandler(this);
  }
  void OnData(std::span<const char> bytes) override {
    EXPECT_FALSE(std::exchange(in_call, true)) << "re-entered";
    received.append(bytes.data(), bytes.size());
    if (echo) {
      std::string copy(bytes.data(), bytes.size());
      connection->Send(&copy);
      EXPECT_TRUE(copy.empty());
    }
    changed->NotifyAll();
    in_call = false;
  }
  void OnSent() override {
    ++sent_events;
    changed->NotifyAll();
  }
  void OnClosed(const Status& why) override {
    EXPECT_FALSE(closed);
    closed = true;
    reason = why;
    connection = nullptr;
    changed->NotifyAll();
  }
  Task<void> WaitFor(size_t bytes) {
    while (received.size() < bytes && !closed) co_await changed->Wait();
  }
  Task<void> WaitClosed() {
    while (!closed) co_await changed->Wait();
  }
};

struct Acceptor final : AcceptHandler {
  Reactor* reactor = nullptr;
  bool echo = true;
  std::vector<std::unique_ptr<Peer>> peers;
  std::unique_ptr<WaitQueue> changed;
  explicit Acceptor(Reactor& r) : reactor(&r), changed(std::make_unique<WaitQueue>(r)) {}
  void OnAccept(Connection* connection) override {
    peers.push_back(std::make_unique<Peer>());
    peers.back()->echo = echo;
    peers.back()->Attach(*reactor, connection);
    changed->NotifyAll();
  }
  Task<void> WaitFor(size_t count) {
    while (peers.size() < count) co_await changed->Wait();
  }
  Task<void> WaitAllClosed() {
    for (auto& peer : peers) co_await peer->WaitClosed();
  }
};

inline std::string Bytes(size_t n, uint64_t seed) {
  std::string s(n, '\0');
  Fill(s.data(), n, seed);
  return s;
}

}  // namespace pando
