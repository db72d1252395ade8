// UringReactor is the production reactor. It uses one io_uring for disk and network.
//
// Threads: a UringReactor is created, run and destroyed on one thread, because the kernel ties a
// SINGLE_ISSUER ring to its creator. Only Stop, Wake and Post may be called from other threads.
//
// It needs Linux 6.0 (multishot receive, provided-buffer rings), and uses DEFER_TASKRUN (6.1) where
// the kernel has it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "src/io/offload_pool.h"
#include "src/io/reactor.h"
#include "src/io/remote.h"
#include "src/io/uring_core.h"
#include "src/io/uring_disk.h"
#include "src/io/uring_network.h"

namespace pando {

struct UringOptions {
  int index = 0;               // Reactor::index(), which is also this reactor's place in `mesh`
  RemoteMesh* mesh = nullptr;  // must outlive the reactor; null if there are no other reactors
  // The pool for Offload, which must outlive the reactor. Null: the reactor makes its own.
  OffloadPool* offload_pool = nullptr;
  unsigned submission_entries = 1024;
  unsigned completion_entries = 16384;
  unsigned registered_files = 1024;
  UringNetworkOptions network;
};

class UringReactor final : public Reactor, private RemoteWaker, private OffloadPort::Workers {
 public:
  ~UringReactor() override;

  int index() const override { return options_.index; }
  Nanos NowNs() const override { return core_.now_ns; }
  Nanos FreshNowNs() const override { return ReadClockNs(); }
  int64_t WallMs() const override;
  uint64_t Random() override;
  void FillRandom(std::span<std::byte> bytes) override;
  void ArmTimer(Timer* timer, Nanos deadline_ns) override { core_.timers.Arm(timer, deadline_ns); }
  void CancelTimer(Timer* timer) override { core_.timers.Cancel(timer); }
  void Schedule(std::coroutine_handle<> h) override { core_.queues.Schedule(h); }
  void ArmTurnHook(TurnHook* hook) override { core_.queues.ArmHook(hook); }

  void Submit(IoOp* op) override { disk_.Submit(op); }
  int RegisterBuffers(std::span<const iovec> regions) override { return disk_.RegisterBuffers(regions); }
  Result<std::vector<std::string>> ListDirectory(const std::string& path) override;
  Result<std::vector<std::string>> ListDirectory(FileId directory, const std::string& path) override {
    return disk_.ListDirectory(directory, path);
  }
  Result<FileIdentity> Identify(FileId file, const std::string& name, const std::string& path) override {
    return disk_.Identify(file, name, path);
  }
  Result<uint64_t> FileSize(FileId file) override { return disk_.FileSize(file); }
  Status LockFile(FileId file, const std::string& path) override { return disk_.LockFile(file, path); }

  Result<uint16_t> Listen(const ListenOptions& options, AcceptHandler* handler) override {
    return network_.Listen(options, handler);
  }
  void StopListening(AcceptHandler* handler) override { network_.StopListening(handler); }
  Task<Result<Connection*>> Connect(std::string host, uint16_t port, Nanos timeout_ns) override {
    return network_.Connect(std::move(host), port, timeout_ns);
  }

  void CallRemote(int target, RemoteCall* call) override;
  void Return(RemoteCall* call) override;

  void StartOffload(OffloadCall* call) override { offload_.Add(call); }
  const OffloadMetrics& offload_metrics() override { return offload_.metrics(); }

  void Run() override;
  void Stop() override;

  // Runs call->Start() on this reactor's loop. May be called from any thread; it is for threads
  // that have no reactor (signals, control, offloaded work). The call's Return, if there is one,
  // leads to Finish() on this reactor's thread as well.
  void Post(RemoteCall* call);
  const UringStats& stats() const { return core_.stats; }
  static Nanos ReadClockNs();  // the clock of NowNs(), for threads that have no turns

 private:
  friend Result<std::unique_ptr<Reactor>> MakeUringReactor(UringOptions options);
  explicit UringReactor(UringOptions options);
  Status Init();
  void Turn();
  void Reap();
  void Dispatch(const io_uring_cqe& cqe);
  void SubmitAndWait(bool wait);
  void ArmWakeRead();
  void Wake() override;
  bool RunPosted();
  void RunWork(OffloadCall* call) override;

  UringOptions options_;
  UringCore core_;
  UringDisk disk_{&core_};
  UringNetwork network_;
  std::unique_ptr<RemotePort> port_;
  bool ring_made_ = false;
  bool running_ = false;

  int wake_fd_ = -1;
  uint64_t wake_value_ = 0;
  bool wake_read_armed_ = false;
  std::atomic<bool> stop_{false};

  // The only lock; taken for control work and once per offloaded call, never for other requests.
  std::mutex posted_mutex_;
  std::vector<RemoteCall*> posted_;
  std::vector<RemoteCall*> posted_returned_;
  std::atomic<bool> has_posted_{false};

  OffloadPort offload_{this, static_cast<OffloadPort::Workers*>(this)};
  std::unique_ptr<OffloadPool> own_pool_;  // if options_ has none, from the first call on

  uint64_t random_state_[4];
};

// Creates a reactor. Returns kUnsupported, with cause and remedy, when the kernel or a sandbox
// refuses io_uring.
Result<std::unique_ptr<Reactor>> MakeUringReactor(UringOptions options);

// Explains why io_uring_setup was refused. `disabled` is the value of kernel.io_uring_disabled, or
// -1 if the kernel has no such setting.
Status ExplainUringRefusal(int error_number, int disabled);

}  // namespace pando
