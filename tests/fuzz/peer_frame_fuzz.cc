// Fuzzes the port for other nodes: any bytes as the stream of who connects, in pieces of any size,
// through the real PeerLinks. Nothing is read out of bounds, nothing reaches the handler before a
// hello was accepted (LK3), what is sent back is whole frames, and nothing of the connection is left
// after it is gone. What decodes as messages encodes to the same bytes (PM1).
//
// The first byte says how: bits 0 to 3 the size of the pieces, bit 4 that the hello of a node comes
// first, bit 5 that it is that of its guard, bit 6 that the bytes go out as they are. Otherwise they
// are items {kind, length of 2 bytes, body}, and go out as frames with correct checksums, because
// mutations would hardly find these.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/replication/peer_links.h"
#include "tests/support/sim_kernel.h"

namespace pando::replication {
namespace {

// The accepted end of a connection without a peer.
class Wire final : public Connection {
 public:
  Wire() : Connection({ListenerKind::kPeer, "fuzz:1", ""}) {}
  void SetHandler(ConnectionHandler* handler) override { handler_ = handler; }
  void Send(std::string* bytes) override {
    sent += *bytes;
    bytes->clear();
  }
  size_t unsent_bytes() const override { return 0; }
  uint64_t acknowledged_bytes() const override { return 0; }
  void PauseReceive() override {}
  void ResumeReceive() override {}
  void Close(bool) override { closing = true; }
  void Deliver(std::string_view bytes) { handler_->OnData({bytes.data(), bytes.size()}); }
  void End() { handler_->OnClosed(Status()); }

  std::string sent;
  bool closing = false;

 private:
  ConnectionHandler* handler_ = nullptr;
};

// Whether the stream holds the acceptance of a hello. CHECKs that it is whole frames.
bool SaysAccepted(std::string_view sent) {
  bool accepted = false;
  while (!sent.empty()) {
    CHECK_GE(sent.size(), sizeof(PeerFrameHeader));
    const auto header = LoadLE<PeerFrameHeader>(sent.data());
    CHECK(CheckFrameHeader(header).ok());
    const std::string_view body = sent.substr(sizeof header, header.body_bytes);
    CHECK(CheckFrameBody(header, body).ok());
    CHECK(header.kind == PeerFrame::kHelloReply || header.kind == PeerFrame::kPong);
    if (header.kind == PeerFrame::kHelloReply) {
      Result<HelloReply> reply = DecodeHelloReply(body);
      CHECK(reply.ok());
      accepted |= reply->verdict == HelloVerdict::kAccepted;
    }
    sent.remove_prefix(sizeof header + body.size());
  }
  return accepted;
}

class Handler final : public PeerHandler {
 public:
  void OnMessage(uint32_t, NodeId from, const Message& message) override {
    CHECK(SaysAccepted(wire->sent)) << "a message came from a stranger";
    CHECK(from == 2 && !message.from.IsNil() && !message.to.IsNil());
    CHECK_LE(ToString(message).size(), 1u << 20);
  }
  void OnDeathNotice(NodeId node, uint64_t) override {
    CHECK(SaysAccepted(wire->sent)) << "a death notice came from a stranger";
    CHECK_EQ(node, 2u);
  }
  Wire* wire = nullptr;
};

struct World {
  World() : kernel(1), reactor(*kernel.AddMachine()->Boot()), links(reactor, Options(), &budget, &handler) {
    CHECK(links.SetAddresses({{2, {}}}).ok());
  }
  static PeerOptions Options() {
    PeerOptions options;
    options.cluster_id = {1, 2};
    options.node = 1;
    return options;
  }
  SimKernel kernel;
  SimReactor& reactor;
  MemoryBudget budget{64 << 20};
  Handler handler;
  PeerLinks links;
};

std::string HelloOfNode(bool guard) {
  PeerHello hello;
  hello.cluster_id = {1, 2};
  hello.from = 2;
  hello.to = 1;
  hello.guard = guard;
  return HelloFrame(hello);
}

// The frames of the items.
std::string Frames(std::string_view items) {
  std::string out;
  while (items.size() >= 3) {
    const size_t length = std::min<size_t>(LoadLE<uint16_t>(items.data() + 1), items.size() - 3);
    std::string frame;
    BeginFrame(&frame);
    frame.append(items.substr(3, length));
    SealFrame(static_cast<PeerFrame>(items[0]), &frame);
    out += frame;
    items.remove_prefix(3 + length);
  }
  return out;
}

void CheckDecoders(const std::string& bytes) {
  (void)DecodeHello(bytes).ok();
  (void)DecodeHelloReply(bytes).ok();
  (void)DecodeDeathNotice(bytes).ok();
  MessagesReader reader(kProtocolMax, bytes);
  std::string again;
  while (true) {
    Result<bool> more = reader.Next();
    if (!more.ok() || !*more) break;
    EncodeMessage(kProtocolMax, reader.partition, reader.message, &again);
  }
  CHECK(std::string_view(bytes).starts_with(again));
}

}  // namespace
}  // namespace pando::replication

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // The links log invalid input, which is all there is here.
  FLAGS_minloglevel = google::GLOG_ERROR;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;               // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  using namespace pando::replication;  // NOLINT(google-build-using-namespace)
  static World* world = new World;
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  CheckDecoders(input);
  const size_t piece = size_t{1} << (data[0] % 16);
  std::string bytes;
  if ((data[0] & 0x10) != 0) bytes += HelloOfNode((data[0] & 0x20) != 0);
  bytes += (data[0] & 0x40) != 0 ? input : Frames(input);
  Wire wire;
  world->handler.wire = &wire;
  static_cast<AcceptHandler*>(&world->links)->OnAccept(&wire);
  for (size_t at = 0; at < bytes.size() && !wire.closing; at += piece) {
    const std::string exact(bytes, at, piece);  // so that asan sees a read beyond it
    wire.Deliver(exact);
  }
  (void)SaysAccepted(wire.sent);
  wire.End();
  world->kernel.RunFor(10 * kMicrosecond);
  CHECK_EQ(world->links.metrics().accepted.value() + world->links.metrics().strangers.value(), 0);
  CHECK_LE(world->budget.used_bytes(), 2 * BudgetAccount::kChunkBytes);
  return 0;
}
