// Fuzzes the server with any bytes as a client's stream, in pieces of any size, through the real
// server and services over a fake partition. Nothing is read out of bounds, every reply is a whole
// frame, and nothing of the client is left after it is gone.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/node/kv_service.h"
#include "tests/support/fake_partition.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_reactor.h"

namespace pando {
namespace {

class FakeControl final : public NodeControl {
 public:
  Task<Result<api::NodeStatus>> CollectStatus(Reactor&) override { co_return api::NodeStatus(); }
  Task<Status> CheckpointAll(Reactor&) override { co_return Status(); }
  Task<Result<OpenedSnapshot>> OpenSnapshot(Reactor&, int64_t, UnwantedFlag) override { co_return OpenedSnapshot(); }
  Task<Result<OpenedSnapshot>> RenewSnapshot(Reactor&, SnapshotToken token, int64_t) override {
    co_return OpenedSnapshot{token, 0};
  }
  Task<Result<bool>> ReleaseSnapshot(Reactor&, SnapshotToken) override { co_return true; }
  Task<Result<api::ScrubReply>> Scrub(Reactor&, bool, uint64_t) override { co_return api::ScrubReply(); }
  std::string server_version() const override { return "fuzz"; }
};

// The server's end of a connection without a peer.
class Wire final : public Connection {
 public:
  Wire() : Connection({ListenerKind::kClient, "fuzz:1", ""}) {}
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

struct World {
  World()
      : kernel(1), reactor(*kernel.AddMachine()->Boot()), partition(0), shared(8 << 20), server(reactor, {}, &shared) {
    store.reactors = 1;
    store.ranges = 1;
    backend.serving = RangeTable::Equal(1);
    store.page_bytes = 8192;
    store.partitions.push_back({0, Uuid{1, 1}, 0, UINT64_MAX});
    backend.store = &store;
    backend.partitions = {&partition};
    backend.stored = {&partition};
    backend.batch_get = FakePartition::BatchGet;
    backend.batch_write = FakePartition::BatchWrite;
    service = std::make_unique<KvService>(&server, &backend, &control);
    backend.peers = {&backend};
    backend.get_paths = {&service->get_path()};
    backend.write_paths = {&service->write_path()};
    server.SetService(service.get());
  }
  SimKernel kernel;
  SimReactor& reactor;
  StoreInfo store;
  FakePartition partition;
  FakeControl control;
  KvBackend backend;
  RpcShared shared;
  RpcServer server;
  std::unique_ptr<KvService> service;
};

void CheckFrames(std::string_view sent) {
  while (!sent.empty()) {
    CHECK_GE(sent.size(), kFrameHeaderBytes);
    size_t whole = kFrameHeaderBytes + __builtin_bswap32(LoadLE<uint32_t>(sent.data()));
    CHECK_GE(sent.size(), whole) << "the reply is not a whole frame";
    std::string_view frame = sent.substr(kFrameHeaderBytes, whole - kFrameHeaderBytes);
    MessageHeader header;
    CHECK(DecodeMessageHeader(&frame, &header).ok());
    sent.remove_prefix(whole);
  }
}

}  // namespace
}  // namespace pando

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // The server logs invalid input, which is all there is here.
  FLAGS_minloglevel = google::GLOG_ERROR;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  static World* world = new World;
  if (size == 0) return 0;
  size_t piece = size_t{1} << (data[0] % 16);
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  Wire wire;
  static_cast<AcceptHandler*>(&world->server)->OnAccept(&wire);
  for (size_t at = 0; at < bytes.size() && !wire.closing; at += piece) {
    wire.Deliver(std::string_view(bytes).substr(at, piece));
    world->kernel.RunFor(10 * kMicrosecond);
  }
  world->kernel.RunFor(kMillisecond);
  CheckFrames(wire.sent);
  wire.End();
  world->kernel.RunFor(kMillisecond);
  CHECK_EQ(world->shared.connections.load(), 0u);
  CHECK_LE(world->shared.memory.used_bytes(), 2 * BudgetAccount::kChunkBytes);
  world->partition.records.clear();
  return 0;
}
