// A server that does nothing: it answers every framed Thrift get or put with the same success, on
// Pando's own reactor. Running kvbench against it shows how much load the generator can drive. It
// is never shipped.
//
//   kvbench_responder [value_bytes] [core] [port]     prints "port N" and serves until it is killed
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>

#include "gen-cpp/Kv.h"
#include "src/base/codec.h"
#include "src/io/uring_reactor.h"
#include "tools/kvbench/server.h"

namespace pando::bench {

namespace {

constexpr size_t kFrameHeader = 4;
constexpr size_t kMethodAt = kFrameHeader + 8;  // after the protocol version and the name's length

std::string Frame(const char* method, auto& result) {
  auto buffer = std::make_shared<apache::thrift::transport::TMemoryBuffer>();
  apache::thrift::protocol::TBinaryProtocol protocol(buffer);
  protocol.writeMessageBegin(method, apache::thrift::protocol::T_REPLY, 0);
  result.__isset.success = true;
  result.write(&protocol);
  std::string frame(kFrameHeader, '\0');
  frame += buffer->getBufferAsString();
  StoreLE<uint32_t>(frame.data(), __builtin_bswap32(static_cast<uint32_t>(frame.size() - kFrameHeader)));
  return frame;
}

struct Answers {
  explicit Answers(size_t value_bytes) {
    api::Kv_get_result got;
    got.success.record.found = true;
    got.success.record.value.assign(value_bytes, 'v');
    get = Frame("get", got);
    api::Kv_put_result stored;
    stored.success.applied = true;
    put = Frame("put", stored);
  }
  std::string get, put;
};

class Peer final : public ConnectionHandler, TurnHook {
 public:
  Peer(Reactor* reactor, Connection* connection, const Answers* answers)
      : reactor_(reactor), connection_(connection), answers_(answers) {}

  void OnData(std::span<const char> bytes) override {
    std::string_view in(bytes.data(), bytes.size());
    if (!partial_.empty()) {
      partial_.append(in);
      in = partial_;
    }
    while (in.size() >= kFrameHeader) {
      size_t length = kFrameHeader + __builtin_bswap32(LoadLE<uint32_t>(in.data()));
      if (length > in.size()) break;
      out_.append(in[kMethodAt] == 'p' ? answers_->put : answers_->get);
      in.remove_prefix(length);
    }
    partial_ = std::string(in);
    if (!out_.empty() && !armed) reactor_->ArmTurnHook(this);
  }
  void OnTurnEnd() override {
    if (connection_) connection_->Send(&out_);
  }
  void OnSent() override {}
  void OnClosed(const Status&) override { connection_ = nullptr; }

 private:
  Reactor* reactor_;
  Connection* connection_;
  const Answers* answers_;
  std::string partial_, out_;
};

class Door final : public AcceptHandler {
 public:
  Door(Reactor* reactor, const Answers* answers) : reactor_(reactor), answers_(answers) {}
  void OnAccept(Connection* connection) override {
    peers_.push_back(std::make_unique<Peer>(reactor_, connection, answers_));
    connection->SetHandler(peers_.back().get());
  }

 private:
  Reactor* reactor_;
  const Answers* answers_;
  std::vector<std::unique_ptr<Peer>> peers_;
};

int Main(int argc, char** argv) {
  size_t value_bytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1000;
  Status pinned = PinThread(argc > 2 ? std::atoi(argv[2]) : -1);
  CHECK(pinned.ok()) << pinned.ToString();
  Result<std::unique_ptr<Reactor>> reactor = MakeUringReactor(UringOptions{});
  CHECK(reactor.ok()) << reactor.status().ToString();
  Answers answers(value_bytes);
  Door door(reactor->get(), &answers);
  ListenOptions listen;
  if (argc > 3) listen.port = static_cast<uint16_t>(std::atoi(argv[3]));
  Result<uint16_t> port = (*reactor)->Listen(listen, &door);
  CHECK(port.ok()) << port.status().ToString();
  std::printf("port %u\n", *port);
  std::fflush(stdout);
  (*reactor)->Run();
  return 0;
}

}  // namespace

}  // namespace pando::bench

int main(int argc, char** argv) { return pando::bench::Main(argc, argv); }
