#include "src/node/twin.h"

#include <optional>
#include <string>
#include <utility>

#include "src/base/address.h"
#include "src/io/timed_wait.h"
#include "src/replication/frame_reader.h"
#include "src/replication/wire.h"

namespace pando {

namespace {

using replication::HelloReply;
using replication::HelloVerdict;

// One hello, and what comes back.
class Question final : private ConnectionHandler {
 public:
  Question(Reactor* reactor, BudgetAccount* account) : reactor_(*reactor), moved_(*reactor), reader_(account) {}

  Task<std::optional<HelloReply>> Ask(HostPort at, replication::PeerHello hello, Nanos limit_ns) {
    const Nanos deadline_ns = reactor_.NowNs() + limit_ns;
    Result<Connection*> connection = co_await reactor_.Connect(std::move(at.host), at.port, limit_ns);
    if (!connection.ok()) co_return std::nullopt;
    open_ = true;
    (*connection)->SetHandler(this);
    std::string bytes = replication::HelloFrame(hello);
    (*connection)->Send(&bytes);
    co_await WaitUntil(reactor_, moved_, deadline_ns, [this] { return !open_ || over_; });
    if (open_) (*connection)->Close(/*now=*/true);
    while (open_) co_await moved_.Wait();
    co_return reply_;
  }

 private:
  void OnData(std::span<const char> bytes) override {
    if (over_) return;
    const Status status = reader_.Take({bytes.data(), bytes.size()}, [this](replication::PeerFrame kind, auto body) {
      Result<HelloReply> reply = replication::DecodeHelloReply(body);
      if (kind == replication::PeerFrame::kHelloReply && reply.ok()) reply_ = *std::move(reply);
      over_ = true;
      return false;
    });
    over_ = over_ || !status.ok();
    if (over_) moved_.NotifyAll();
  }
  void OnSent() override {}
  void OnClosed(const Status&) override {
    open_ = false;
    moved_.NotifyAll();
  }

  Reactor& reactor_;
  WaitQueue moved_;
  replication::FrameReader reader_;
  std::optional<HelloReply> reply_;
  bool open_ = false;
  bool over_ = false;  // a frame has come, or bytes that are none
};

}  // namespace

Task<Status> CheckNoTwin(Reactor& reactor, Uuid cluster_id, NodeRecord record, MemoryBudget* memory) {
  if (record.peer_addresses.empty()) co_return Status();
  Result<HostPort> at = ParseHostPort(record.peer_addresses.front());
  if (!at.ok()) co_return Status();
  replication::PeerHello hello;
  hello.cluster_id = cluster_id;
  hello.from = hello.to = record.id;
  BudgetAccount account(memory);
  std::optional<HelloReply> reply;
  {
    Question question(&reactor, &account);
    reply = co_await question.Ask(*std::move(at), hello, kTwinAnswerNs);
  }
  if (!reply || reply->verdict == HelloVerdict::kOtherCluster || reply->verdict == HelloVerdict::kOtherNode) {
    co_return Status();
  }
  co_return Error(Code::kInvalidArgument,
                  "node {} runs already: its process {} answers at {} (for clients: {}), with another data directory. "
                  "Two processes cannot be one node: correct --node_id or --data_dir (kvadmin cluster show lists the "
                  "nodes), or stop that process first, if this one is to take its place",
                  record.id, reply->incarnation, record.peer_addresses.front(), record.client_address);
}

}  // namespace pando
