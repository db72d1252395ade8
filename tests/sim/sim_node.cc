#include "tests/sim/sim_node.h"

#include <utility>

#include "src/io/call_on.h"
#include "src/io/directory.h"

namespace pando {
namespace {

constexpr Nanos kStopWithinNs = 5 * kSecond;
constexpr int64_t kSnapshotMaxAgeMs = 3'600'000;

}  // namespace

SimNode::SimNode(SimMachine* machine, SimNodeOptions options)
    : machine_(machine), first_(*machine->reactor(0)), options_(std::move(options)) {}

// Runs fn(part) -> Task<Status> on the reactor of every part, one after the other. Returns the
// first error.
template <typename Fn>
Task<Status> SimNode::OnAllParts(Fn fn) {
  Status result;
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto on_part = [part = parts_[i], fn](Reactor&) mutable { return fn(part); };
    Status status = co_await CallOn(first_, static_cast<int>(i), std::move(on_part));
    if (result.ok()) result = std::move(status);
  }
  co_return result;
}

Task<Status> SimNode::Start() {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(first_, options_.store.data_dir));
  Result<File> lock = co_await LockStore(first_, options_.store.data_dir);
  if (!lock.ok()) co_return lock.TakeStatus();
  lock_ = *std::move(lock);
  Result<StoreInfo> opened = co_await OpenStore(first_, options_.store);
  if (!opened.ok()) co_return opened.TakeStatus();
  store_ = *std::move(opened);
  CO_RETURN_IF_ERROR(co_await RemoveLeftovers(first_, &store_));
  for (uint32_t i = 0; i < store_.reactors; ++i) {
    Reactor& reactor = *machine_->reactor(static_cast<int>(i));
    owned_.push_back(std::make_unique<ReactorPart>(reactor, &store_, &node_options_, &shared_, &registry_, this));
    parts_.push_back(owned_.back().get());
  }
  CO_RETURN_IF_ERROR(co_await OpenEngines());
  for (ReactorPart* part : parts_) part->Build(parts_);
  for (ReactorPart* part : parts_) part->Connect(parts_);
  snapshots_ = std::make_unique<Snapshots>(first_, &parts_[0]->here(), kSnapshotMaxAgeMs);
  CO_ASSIGN_OR_RETURN(const FileIdentity identity, lock_.Identity());
  partitions_ = std::make_unique<NodePartitions>(first_, &parts_, snapshots_.get(), &shared_.memory, store_, identity);
  CO_RETURN_IF_ERROR(co_await partitions_->Open());
  CO_RETURN_IF_ERROR(co_await Listen());
  serving_ = true;
  co_return Status();
}

Task<Status> SimNode::OpenEngines() {
  EngineOptions engine = options_.engine;
  engine.clock = std::make_shared<StoreClock>();
  engine.store = store_;
  CO_ASSIGN_OR_RETURN(engine.lock, lock_.Identity());
  engine.on_failure = [this](const Status& status) {
    if (failure_.ok()) failure_ = status;
  };
  auto open = [engine](ReactorPart* part) {
    EngineOptions own = engine;
    own.reactor_index = part->index();
    return part->OpenEngine(std::move(own));
  };
  co_return co_await OnAllParts(std::move(open));
}

Task<Status> SimNode::Listen() {
  ListenOptions listen;
  listen.host = machine_->host();
  listen.port = options_.port;
  listen.reuse_port = parts_.size() > 1;
  for (ReactorPart* part : parts_) {
    Result<uint16_t> port = part->Listen(listen);
    if (!port.ok()) co_return port.TakeStatus();
  }
  co_return Status();
}

Task<Status> SimNode::Stop() {
  serving_ = false;
  Status status;
  if (partitions_) status = co_await partitions_->Close();
  auto stop = [](ReactorPart* part) { return part->StopServing(kStopWithinNs); };
  Status stopped = co_await OnAllParts(stop);
  if (status.ok()) status = std::move(stopped);
  Status drained = co_await OnAllParts([](ReactorPart* part) { return part->DrainCalls(); });
  if (status.ok()) status = std::move(drained);
  partitions_.reset();
  snapshots_.reset();
  auto close = [checkpoint = failure_.ok()](ReactorPart* part) { return part->CloseEngine(checkpoint); };
  Status closed = co_await OnAllParts(close);
  if (status.ok()) status = std::move(closed);
  Status unlocked = co_await lock_.Close();
  if (status.ok()) status = std::move(unlocked);
  co_return status;
}

// -- NodeControl: what clients of stories do not use is left out.

Task<Result<api::NodeStatus>> SimNode::CollectStatus(Reactor&) {
  co_return Error(Code::kUnsupported, "a simulated node does not report its status");
}

Task<Status> SimNode::CheckpointAll(Reactor&) {
  auto checkpoint = [](ReactorPart* part) { return part->engine()->CheckpointAll(); };
  co_return co_await OnAllParts(checkpoint);
}

Task<Result<OpenedSnapshot>> SimNode::OpenSnapshot(Reactor&, int64_t ttl_ms, UnwantedFlag unwanted) {
  return snapshots_->Open(ttl_ms, std::move(unwanted));
}
Task<Result<OpenedSnapshot>> SimNode::RenewSnapshot(Reactor&, SnapshotToken token, int64_t ttl_ms) {
  return snapshots_->Renew(token, ttl_ms);
}
Task<Result<bool>> SimNode::ReleaseSnapshot(Reactor&, SnapshotToken token) { return snapshots_->Release(token); }
Task<Result<api::ScrubReply>> SimNode::Scrub(Reactor&, bool, uint64_t) {
  co_return Error(Code::kUnsupported, "a simulated node does not scrub");
}

void SimNode::CheckInvariants() const {
  for (ReactorPart* part : parts_) {
    if (part->engine() != nullptr) part->engine()->CheckInvariants();
  }
}

}  // namespace pando
