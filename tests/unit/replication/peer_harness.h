// What the tests of PeerLinks need: nodes on the simulated network, and raw peers that send and
// receive any bytes.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/base/codec.h"
#include "src/replication/peer_links.h"
#include "tests/support/sim_kernel.h"

namespace pando::replication {

inline constexpr Uuid kCluster{77, 88};
inline constexpr uint16_t kPort = 7000;  // of reactor 0; the next ones follow

inline std::string HostOf(NodeId node) { return fmt::format("10.0.0.{}", node); }
inline std::string AddressOf(NodeId node, uint32_t reactor = 0) {
  return fmt::format("{}:{}", HostOf(node), kPort + reactor);
}

inline Message Beat(Epoch epoch, Lsn commit_lsn = 0) {
  return {Uuid{1, 1}, Uuid{2, 2}, Heartbeat{epoch, 1, 1, commit_lsn, 0, 0}};
}
inline Message Data(size_t bytes, Lsn commit_lsn = 0) {
  Append append;
  append.epoch = 1;
  append.units.assign(bytes, 'u');
  append.commit_lsn = commit_lsn;
  return {Uuid{1, 1}, Uuid{2, 2}, std::move(append)};
}
inline Lsn CommitOf(const Message& message) {
  if (const auto* beat = std::get_if<Heartbeat>(&message.body)) return beat->commit_lsn;
  if (const auto* append = std::get_if<Append>(&message.body)) return append->commit_lsn;
  return 0;
}

class Recorder final : public PeerHandler {
 public:
  struct Got {
    uint32_t partition;
    NodeId from;
    Lsn commit_lsn;
    size_t kind;
  };
  void OnMessage(uint32_t partition, NodeId from, const Message& message) override {
    got.push_back({partition, from, CommitOf(message), message.body.index()});
    if (on_message) on_message(from, message);
  }
  void OnDeathNotice(NodeId node, uint64_t incarnation) override { deaths.emplace_back(node, incarnation); }
  void OnConnected(NodeId node) override { connected.push_back(node); }
  size_t From(NodeId node) const {
    return static_cast<size_t>(std::count_if(got.begin(), got.end(), [node](const Got& g) { return g.from == node; }));
  }

  std::vector<Got> got;
  std::vector<std::pair<NodeId, uint64_t>> deaths;
  std::vector<NodeId> connected;
  std::function<void(NodeId, const Message&)> on_message;
};

// One process of a node, with one reactor's links.
struct PeerProcess {
  PeerProcess(Reactor& reactor, const PeerOptions& options, int64_t memory_bytes)
      : budget(memory_bytes, memory_bytes / 16), links(reactor, options, &budget, &handler) {}
  MemoryBudget budget;
  Recorder handler;
  PeerLinks links;
};

// A cluster of nodes with one reactor each.
class PeerWorld {
 public:
  explicit PeerWorld(uint64_t seed = 1, size_t nodes = 2, SimOptions sim = {}) : kernel(seed, sim) {
    options.cluster_id = kCluster;
    for (NodeId node = 1; node <= nodes; ++node) {
      machines.push_back(kernel.AddMachine(HostOf(node)));
      processes.emplace_back();
      incarnations.push_back(0);
    }
  }
  ~PeerWorld() {
    for (NodeId node = 1; node <= machines.size(); ++node) {
      if (processes[node - 1]) Stop(node);
    }
  }

  // Starts a process of the node that knows the addresses of all nodes.
  PeerLinks& Start(NodeId node) { return StartWith(node, options); }
  PeerLinks& StartWith(NodeId node, PeerOptions own) {
    own.node = node;
    own.incarnation = ++incarnations[node - 1];
    SimReactor& reactor = *machines[node - 1]->Boot();
    processes[node - 1] = std::make_unique<PeerProcess>(reactor, own, memory_bytes);
    ListenOptions listen;
    listen.host = HostOf(node);
    listen.port = kPort;
    listen.budgets = budgets;
    CHECK(links(node).Listen(listen).ok());
    CHECK(links(node).SetAddresses(Addresses()).ok());
    return links(node);
  }
  std::map<NodeId, std::vector<std::string>> Addresses() const {
    std::map<NodeId, std::vector<std::string>> all = extra_addresses;
    for (NodeId node = 1; node <= machines.size(); ++node) all[node] = {AddressOf(node)};
    return all;
  }
  void Stop(NodeId node) {
    PeerProcess& process = *processes[node - 1];
    CHECK(kernel.RunTask(reactor(node), process.links.Close()));
    EXPECT_LE(process.budget.used_bytes(), 2 * BudgetAccount::kChunkBytes);
    EXPECT_EQ(process.links.metrics().links.value(), 0);
    EXPECT_EQ(process.links.metrics().links_up.value(), 0);
    EXPECT_EQ(process.links.metrics().accepted.value(), 0);
    EXPECT_EQ(process.links.metrics().filters.handshakes.value(), 0);
    processes[node - 1].reset();
    machines[node - 1]->ProcessCrash(1);
  }
  // The process or the machine stops at once; what it was stays allocated (K3).
  void Crash(NodeId node, bool power = false) {
    if (power) {
      machines[node - 1]->PowerLoss(1);
    } else {
      machines[node - 1]->ProcessCrash(1);
    }
    static auto* abandoned = new std::vector<PeerProcess*>;
    abandoned->push_back(processes[node - 1].release());
  }

  PeerLinks& links(NodeId node) { return processes[node - 1]->links; }
  Recorder& handler(NodeId node) { return processes[node - 1]->handler; }
  MemoryBudget& budget(NodeId node) { return processes[node - 1]->budget; }
  SimReactor& reactor(NodeId node) { return *machines[node - 1]->reactor(); }

  bool RunUntil(const std::function<bool()>& done, Nanos limit_ns = 20 * kSecond) {
    return kernel.RunUntil(done, kernel.now_ns() + limit_ns) == SimKernel::Stopped::kPredicate;
  }
  bool UntilUp(NodeId from, NodeId to) {
    return RunUntil([this, from, to] { return links(from).IsUp(to, 0); });
  }
  bool UntilDown(NodeId from, NodeId to) {
    return RunUntil([this, from, to] { return !links(from).IsUp(to, 0); });
  }

  SimKernel kernel;
  PeerOptions options;
  int64_t memory_bytes = 64 << 20;
  ConnectionBudgets* budgets = nullptr;
  std::map<NodeId, std::vector<std::string>> extra_addresses;
  std::vector<SimMachine*> machines;
  std::vector<std::unique_ptr<PeerProcess>> processes;
  std::vector<uint64_t> incarnations;
};

// One end of a connection that sends any bytes, and cuts what it receives into frames. It ends with
// the kernel.
class RawEnd final : public ConnectionHandler {
 public:
  explicit RawEnd(Connection* connection) : connection_(connection) { connection_->SetHandler(this); }
  void Send(std::string bytes) {
    if (!closed) connection_->Send(&bytes);
  }
  void Pause() { connection_->PauseReceive(); }
  void Resume() { connection_->ResumeReceive(); }
  void Close(bool now = true) {
    if (!closed) connection_->Close(now);
  }
  // The first frame, if it is the answer to a hello.
  std::optional<HelloReply> reply() const {
    if (frames.empty() || frames[0].first != PeerFrame::kHelloReply) return std::nullopt;
    Result<HelloReply> decoded = DecodeHelloReply(frames[0].second);
    CHECK(decoded.ok());
    return *decoded;
  }

  std::vector<std::pair<PeerFrame, std::string>> frames;
  size_t received_bytes = 0;
  bool closed = false;
  std::function<void(PeerFrame, RawEnd*)> on_frame;

 private:
  void OnData(std::span<const char> bytes) override {
    received_bytes += bytes.size();
    rest_.append(bytes.data(), bytes.size());
    while (rest_.size() >= sizeof(PeerFrameHeader)) {
      const auto header = LoadLE<PeerFrameHeader>(rest_.data());
      CHECK(CheckFrameHeader(header).ok());
      const size_t whole = sizeof header + header.body_bytes;
      if (rest_.size() < whole) return;
      frames.emplace_back(header.kind, rest_.substr(sizeof header, header.body_bytes));
      CHECK(CheckFrameBody(header, frames.back().second).ok());
      rest_.erase(0, whole);
      if (on_frame) on_frame(header.kind, this);
    }
  }
  void OnSent() override {}
  void OnClosed(const Status&) override { closed = true; }

  Connection* const connection_;
  std::string rest_;
};

// A machine whose process speaks to the nodes as it likes: it connects to them, and lets them connect.
class RawMachine final : public AcceptHandler {
 public:
  RawMachine(SimKernel& kernel, const std::string& host)
      : kernel_(kernel), machine_(kernel.AddMachine(host)), reactor_(*machine_->Boot()) {
    ListenOptions listen;
    listen.host = host;
    listen.port = kPort;
    CHECK(reactor_.Listen(listen, this).ok());
  }
  // Null: there was no connection.
  RawEnd* Connect(const std::string& host, uint16_t port = kPort) {
    auto connection = kernel_.RunTask(reactor_, reactor_.Connect(host, port, kSecond));
    CHECK(connection);
    if (!connection->ok()) return nullptr;
    ends.push_back(std::make_unique<RawEnd>(**connection));
    return ends.back().get();
  }
  SimReactor& reactor() { return reactor_; }

  std::vector<std::unique_ptr<RawEnd>> ends;  // of both kinds
  std::function<void(PeerFrame, RawEnd*)> on_frame;

 private:
  void OnAccept(Connection* connection) override {
    ends.push_back(std::make_unique<RawEnd>(connection));
    ends.back()->on_frame = on_frame;
  }
  SimKernel& kernel_;
  SimMachine* machine_;
  SimReactor& reactor_;
};

// Answers the hello with an acceptance, and pings with pongs, as a node does.
inline void AnswerAsNode(PeerFrame kind, RawEnd* end) {
  if (kind == PeerFrame::kHello) end->Send(HelloReplyFrame({}));
  if (kind == PeerFrame::kPing) end->Send(EmptyFrame(PeerFrame::kPong));
}

// The hello of a node (or its guard) to node `to`.
inline PeerHello HelloOf(NodeId from, NodeId to, uint64_t incarnation = 1) {
  PeerHello hello;
  hello.cluster_id = kCluster;
  hello.from = from;
  hello.to = to;
  hello.incarnation = incarnation;
  return hello;
}

inline std::string MessagesFrame(const std::vector<Message>& messages, uint32_t partition = 5) {
  std::string frame;
  BeginFrame(&frame);
  for (const Message& message : messages) EncodeMessage(kProtocolMax, partition, message, &frame);
  SealFrame(PeerFrame::kMessages, &frame);
  return frame;
}

}  // namespace pando::replication
