// flip_record DIR PARTITION KEY VALUE: gives a record of a stopped node another value, with the same version and
// expiry, and without the log knowing: what a bug or a bad memory would do. kvadmin verify must find it.
//
// Threads: one.
#include <cstdio>

#include "src/engine/engine.h"
#include "src/engine/snapshot_cut.h"
#include "src/model/key_space.h"
#include "src/partition/replica.h"
#include "tools/kvadmin/offline.h"

namespace pando {
namespace {

// Nothing is committed that was not before, and no epoch begins.
class StillGate final : public CommitGate {
 public:
  Start OnRecovered(const RecoveredLog& log) override { return {log.epoch, log.committed_lsn}; }
  void OnServing(GatedPartition*) override {}
  void OnDurable(Lsn) override {}
  void OnClosed() override {}
};

Task<Status> Flip(Reactor* reactor, Replica* replica, std::string key, std::string value) {
  Tree& tree = replica->tree();
  CO_ASSIGN_OR_RETURN(PagePin pin, co_await tree.FetchLeaf(key));
  CO_RETURN_IF_ERROR(co_await tree.pool().EnsureFree(kFramesPerUpdate));
  const std::optional<FoundRecord> found = tree.FindInLeaf(pin.frame(), key);
  if (!found) co_return Error(Code::kNotFound, "there is no record {}", key);
  const Version version = found->record.version;
  const int64_t expires_at_ms = found->record.expires_at_ms;
  tree.Upsert(pin.frame(), key, NewValue{value, Extent(), version, expires_at_ms});
  pin.Release();
  // There is no reason for a checkpoint, but a snapshot brings its own.
  std::vector<Partition*> cut{replica};
  CO_ASSIGN_OR_RETURN(const SnapshotInfo snapshot, co_await CutSnapshot(*reactor, cut, INT64_MAX));
  co_return co_await ReleaseSnapshot(cut, snapshot.id);
}

Task<Result<admin::ExitCode>> Main(Reactor* reactor, const char* const* argv) {
  CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, argv[1]));
  CO_ASSIGN_OR_RETURN(File lock, co_await LockStore(*reactor, argv[1]));
  EngineOptions options;
  options.store = store;
  options.make_gate = [](uint32_t) { return std::make_unique<StillGate>(); };
  CO_ASSIGN_OR_RETURN(options.lock, lock.Identity());
  CO_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, co_await Engine::Open(*reactor, std::move(options)));
  const auto partition = static_cast<uint32_t>(std::stoul(argv[2]));
  auto* replica = dynamic_cast<Replica*>(engine->partition(partition));
  Status status = Error(Code::kNotFound, "the store holds no partition {}", partition);
  if (replica != nullptr)
    status = co_await Flip(reactor, replica, KeySpace::Of(store.namespaced).Stored(argv[3]), argv[4]);
  Status closed = co_await engine->Close(/*checkpoint=*/true);
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(closed);
  CO_RETURN_IF_ERROR(co_await lock.Close());
  co_return admin::kExitOk;
}

}  // namespace
}  // namespace pando

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const auto done = pando::admin::RunOffline([&](pando::Reactor& reactor) { return pando::Main(&reactor, argv); });
  if (!done.ok()) fprintf(stderr, "flip_record: %s\n", done.status().ToString().c_str());
  return done.ok() ? 0 : 1;
}
