// SimReactor: the Reactor of the simulated kernel. SimMachine::Boot creates it; tests use it as a
// Reactor.
//
// A turn executes the steps of R3 (reactor.h) at one instant of virtual time, unless its machine is
// paused inside it (K4). After its machine has stopped, every call returns without effect (K3).
//
// Threads: one, that of the simulation.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "src/io/offload.h"
#include "src/io/reactor.h"
#include "src/io/remote.h"
#include "src/io/timer_heap.h"
#include "src/io/turn_queues.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_network.h"
#include "tests/support/sim_random.h"

namespace pando {

class SimKernel;
class SimMachine;

class SimReactor final : public Reactor, private RemoteWaker, private OffloadPort::Workers {
 public:
  ~SimReactor() override;

  int index() const override { return index_; }
  Nanos NowNs() const override;
  int64_t WallMs() const override;
  uint64_t Random() override {
    PausePoint();
    return random_.Next();
  }
  void FillRandom(std::span<std::byte> bytes) override;
  void ArmTimer(Timer* timer, Nanos deadline_ns) override;
  void CancelTimer(Timer* timer) override;
  void Schedule(std::coroutine_handle<> h) override;
  void ArmTurnHook(TurnHook* hook) override;

  void Submit(IoOp* op) override;
  int RegisterBuffers(std::span<const iovec> regions) override;
  Result<std::vector<std::string>> ListDirectory(const std::string& path) override;
  Result<std::vector<std::string>> ListDirectory(FileId directory, const std::string& path) override;
  Result<FileIdentity> Identify(FileId file, const std::string& name, const std::string& path) override;
  Result<uint64_t> FileSize(FileId file) override;
  Status LockFile(FileId file, const std::string& path) override;

  Result<uint16_t> Listen(const ListenOptions& options, AcceptHandler* handler) override;
  void StopListening(AcceptHandler* handler) override;
  Task<Result<Connection*>> Connect(std::string host, uint16_t port, Nanos timeout_ns) override;

  void CallRemote(int target, RemoteCall* call) override;
  void Return(RemoteCall* call) override;

  void StartOffload(OffloadCall* call) override;
  const OffloadMetrics& offload_metrics() override { return offload().metrics(); }

  // Runs the whole kernel until Stop(). A CHECK fails if the machine stops or no event is left.
  void Run() override;
  void Stop() override { stop_ = true; }

  bool dead() const { return dead_; }
  SimMachine& machine() const { return *machine_; }
  SimKernel& kernel() const { return *kernel_; }
  size_t open_files() const;
  // A fresh look at the machine's boot clock; NowNs() is that of the turn.
  Nanos FreshNowNs() const override;
  // The true time at which the code that runs now acts on the world (K4).
  Nanos ActsAtNs() const;

 private:
  friend class SimMachine;
  friend class SimNetwork;
  friend class SimKernel;
  struct OpenFile {
    bool open = false;
    SimDisk::InodeId inode = 0;
    int flags = 0;
    bool locked = false;
    std::string path;
  };

  SimReactor(SimKernel* kernel, SimMachine* machine, uint64_t boot, int index, RemoteMesh* mesh, uint64_t seed);
  void CheckTransfer(const IoOp& op) const;
  FileId AddFile(OpenFile file);
  void Completed(IoOp* op);  // the next turn delivers it
  void ScheduleTurn(Nanos time_ns);
  void Poke();  // schedules a turn for a request from outside a turn
  void Turn();
  void EndTurn();
  // Every call of code into the reactor passes here. The machine may be paused there.
  void PausePoint() const;
  void Kill();
  // Lives as long as this.
  void Adopt(std::shared_ptr<void> thing) { adopted_.push_back(std::move(thing)); }
  void Wake() override;
  OffloadPort& offload();
  void RunWork(OffloadCall* call) override;
  void DoWork(OffloadCall* call);
  void CheckNotOffloaded() const { CHECK(!working_) << "offloaded work used the reactor"; }

  SimKernel* kernel_;
  SimMachine* machine_;
  const uint64_t boot_;
  const int index_;
  SimRandom random_;
  SimRandom secrets_;  // for FillRandom
  bool dead_ = false;
  bool stop_ = false;
  bool in_turn_ = false;
  bool pausable_ = false;        // in the part of a turn that may be paused inside
  mutable Nanos ahead_ns_ = 0;   // how long this turn has been paused inside
  Nanos turn_now_ns_ = 0;        // NowNs() in a turn, and of a stopped machine
  std::vector<IoOp*> late_ops_;  // submitted after a pause that has not ended yet
  Nanos next_turn_ns_;
  Nanos busy_until_ns_ = 0;

  TimerHeap timers_;
  std::vector<Timer*> lost_timers_;  // only keeps them reachable (K3)
  TurnQueues queues_;
  RemotePort port_;
  std::vector<OpenFile> files_;
  std::vector<IoOp*> completed_, delivering_;
  // Most reactors offload nothing, and are kept forever; so this is made by the first call.
  std::unique_ptr<OffloadPort> offload_;
  std::vector<OffloadCall*> in_pool_, worked_;  // not done; done, and delivered by the next turn
  bool working_ = false;                        // offloaded work runs
  std::vector<iovec> registered_;
  SimReactorNetwork network_;
  std::vector<std::shared_ptr<void>> adopted_;
};

}  // namespace pando
