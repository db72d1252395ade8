// The simulated kernel: a virtual clock, in-memory disks, an in-memory network, one seed, and one
// thread. The production code of one node or of a cluster runs on its reactors. The same seed gives
// the same order of events.
//
//   SimKernel kernel(seed);
//   SimMachine* machine = kernel.AddMachine("10.0.0.1");
//   SimReactor& reactor = *machine->Boot();
//   machine->CrashAtDiskOp(17);
//   if (!kernel.RunTask(reactor, Workload(reactor))) {   // nullopt: the machine crashed first
//     machine->PowerLoss(crash_seed);
//     SimReactor& again = *machine->Boot();              // on the data that survived
//   }
//
// Threads: one for a kernel, its machines, and all code that runs on them.
//
// Invariants
//   K1  All randomness comes from the seed, and containers are never ordered by address. Equal
//       seeds and equal tests give an equal trace_hash().
//   K2  Until a read completes, its buffer holds garbage. A write takes its bytes at completion, so
//       the reuse of a buffer before that becomes visible. Bytes given to OnData are garbage after
//       it returns.
//   K3  After a machine has stopped, none of its code runs, and calls into its reactors do nothing.
//       Its coroutines and objects are abandoned: the kernel never resumes or destroys them. The
//       stopped reactors are kept forever, because abandoned objects may call them. They also keep
//       everything that they knew reachable, so that LeakSanitizer does not report it.
//   K4  What a machine does after a pause inside a turn happens after the pause, for every observer.
//       If the machine stops before that, it does not happen.
//
// Pauses inside a turn: a turn is one event of the simulation, so nothing can come between two of
// its steps. Instead, the code runs on at once, and what it does outside of its memory from the
// pause on (disk operations, sent bytes, fresh looks at the clock) carries the later time. Nobody
// can tell the difference: until the pause ends, no other code of the machine runs.
//
// Abandoned memory stays allocated. A test that crashes thousands of times runs its cases in
// batches in child processes (InBatches in tests/support/child_process.h).
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/io/call_on.h"
#include "src/io/reactor.h"
#include "src/io/remote.h"
#include "tests/support/sim_clock.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_network.h"
#include "tests/support/sim_random.h"

namespace pando {

class SimMachine;
class SimReactor;

inline constexpr Nanos kForever = std::numeric_limits<Nanos>::max();

struct SimOptions {
  // Every disk operation, network segment, and remote message takes a random time between min and
  // max, so they overtake each other.
  Nanos disk_min_ns = 10 * kMicrosecond, disk_max_ns = 200 * kMicrosecond;
  Nanos network_min_ns = 20 * kMicrosecond, network_max_ns = 100 * kMicrosecond;
  Nanos remote_min_ns = kMicrosecond, remote_max_ns = 10 * kMicrosecond;
  // Offloaded work takes a random time between min and max, on one of these threads of a machine.
  Nanos offload_min_ns = 50 * kMicrosecond, offload_max_ns = 2 * kMillisecond;
  int offload_threads = 2;
  Nanos turn_max_ns = 2 * kMicrosecond;   // a reactor's turn takes up to this
  double short_transfer_probability = 0;  // of a read or write that transfers only a part
  bool random_chunks = true;              // socket bytes arrive in pieces of random size
  // Most bytes in transit or unread; then the sender waits.
  size_t socket_window_bytes = 256u << 10;
  size_t remote_capacity = RemoteMesh::kDefaultCapacity;
  bool refuse_direct_io = false;      // O_DIRECT opens fail with EINVAL
  bool refuse_holes = false;          // PunchHole fails with EOPNOTSUPP
  bool refuse_locked_memory = false;  // RegisterBuffers fails
  // A machine that is booted after a power loss finds its boot clock near zero, as real ones do.
  bool boot_clock_restarts = false;
};

class SimKernel {
 public:
  explicit SimKernel(uint64_t seed, SimOptions options = {});
  ~SimKernel();
  SimKernel(const SimKernel&) = delete;
  SimKernel& operator=(const SimKernel&) = delete;

  // Adds a machine with an empty disk; `host` is its address. Boot it to get reactors.
  SimMachine* AddMachine(std::string host = "10.0.0.1");
  SimMachine* machine(const std::string& host);

  enum class Stopped { kPredicate, kIdle, kDeadline };
  // Runs events until `done` returns true (it is called after each event), until no event is left,
  // or until virtual time reaches `deadline_ns`.
  Stopped RunUntil(const std::function<bool()>& done, Nanos deadline_ns = kForever);
  Stopped RunUntilIdle(Nanos deadline_ns = kForever);
  void RunFor(Nanos duration_ns);

  // Runs `task` on `reactor`. Returns nullopt if its machine stopped first; `task` is then
  // abandoned. If no event is left and `task` is not done, a CHECK fails.
  template <typename T>
  std::optional<detail::Stored<T>> RunTask(SimReactor& reactor, Task<T> task);

  Nanos now_ns() const { return now_ns_; }
  uint64_t events() const { return events_; }
  uint64_t trace_hash() const { return trace_hash_; }
  SimRandom& random() { return random_; }
  SimOptions& options() { return options_; }
  SimNetwork& network() { return network_; }

  // -- for the other parts of the kernel
  static constexpr uint64_t kNoBoot = 0;
  // Runs `fire` at `time_ns`, unless its boot has ended by then.
  void At(Nanos time_ns, uint64_t boot, std::function<void()> fire);
  Nanos Latency(Nanos lo, Nanos hi) { return random_.Between(lo, hi); }
  void Trace(uint64_t a, uint64_t b = 0, uint64_t c = 0);
  uint64_t NewBoot();
  void EndBoot(uint64_t boot) { boot_alive_[boot] = false; }
  bool BootAlive(uint64_t boot) const { return boot == kNoBoot || boot_alive_[boot]; }
  static bool TaskStopped(SimReactor& reactor);

 private:
  struct Event {
    Nanos time_ns;
    uint64_t sequence;
    uint64_t boot;
    std::function<void()> fire;
    bool operator>(const Event& o) const { return time_ns != o.time_ns ? time_ns > o.time_ns : sequence > o.sequence; }
  };
  bool Step(Nanos deadline_ns);

  SimOptions options_;
  SimRandom random_;
  Nanos now_ns_ = 3600 * kSecond;
  uint64_t next_sequence_ = 0;
  uint64_t events_ = 0;
  uint64_t trace_hash_ = 0;
  std::vector<Event> queue_;  // a heap, earliest first
  std::vector<bool> boot_alive_{true};
  SimNetwork network_{this};
  std::vector<std::unique_ptr<SimMachine>> machines_;
};

// Selects the operations that fail: every field that is set must match.
struct DiskFault {
  std::optional<IoOp::Kind> kind;
  std::string path_contains;
  std::string path = {};                            // this one only; "": any
  uint64_t first_byte = 0, last_byte = UINT64_MAX;  // operations whose range overlaps this one
  uint64_t skip = 0;                                // the first matches, which succeed
  uint64_t count = 1;                               // then this many fail; UINT64_MAX: all
  bool syncs_only = false;                          // syncs, and writes that must be durable on completion
  int error_number = 5;                             // EIO
};

// After `skip` of them have succeeded, `count` syncs or writes that must be durable on completion
// fail.
inline DiskFault SyncFault(uint64_t skip, uint64_t count) {
  DiskFault fault;
  fault.skip = skip;
  fault.count = count;
  fault.syncs_only = true;
  return fault;
}

class SimMachine {
 public:
  ~SimMachine();
  const std::string& host() const { return host_; }
  // Starts `count` reactors of one process. The machine must not be running.
  SimReactor* Boot(int count = 1);
  SimReactor* reactor(int index = 0);
  int reactors() const { return static_cast<int>(reactors_.size()); }
  bool running() const { return running_; }

  // -- crashes
  // The number of disk operations submitted since the machine was added, over all its boots.
  uint64_t disk_ops() const { return disk_ops_; }
  // Stops the machine at the moment when its n-th disk operation (counted like disk_ops(), from 1)
  // is submitted. A PowerLoss or ProcessCrash must follow. It decides the outcome of that operation
  // and of all others in flight.
  void CrashAtDiskOp(uint64_t n) { crash_at_ = n; }
  // Both stop the machine if it runs. Then it can be booted again on the data that survives.
  void PowerLoss(uint64_t seed);
  void ProcessCrash(uint64_t seed);

  // -- disk
  SimDisk& disk() { return disk_; }  // replace or copy it while the machine is stopped
  void AddFault(DiskFault fault) { faults_.push_back(std::move(fault)); }
  void ClearFaults() { faults_.clear(); }
  // All operations that a fault made fail.
  uint64_t faults_struck() const { return faults_struck_; }
  // Simulates a hung disk: no disk operation that is submitted from now on completes before this
  // time.
  void StallDiskUntil(Nanos time_ns) { disk_stalled_until_ = time_ns; }
  // Simulates a disk that hangs until it is released: operations, or only those that must be
  // durable, do not complete.
  enum class DiskHang { kNone, kSyncs, kAll };
  void HangDisk(DiskHang hang) { disk_hang_ = hang; }
  void ReleaseDisk();
  // Every operation takes a random time between both. Zeros: that of SimOptions.
  void SetDiskLatency(Nanos min_ns, Nanos max_ns) { disk_min_ns_ = min_ns, disk_max_ns_ = max_ns; }
  // A disk without a free block; files can be rewritten, but not grow.
  void FillDisk() { disk_.SetCapacity(disk_.used_bytes()); }
  void EmptyDisk() { disk_.SetCapacity(UINT64_MAX); }
  // A disk that lies reports syncs as done, and makes nothing durable.
  void LieAboutSyncs(bool lie) { disk_lies_ = lie; }
  // What a power loss at this moment would leave on the disk. Assign it to disk() to roll back.
  SimDisk Image(uint64_t seed) const;

  // -- time
  void SetClockSkewMs(int64_t ms) { clock_.SetWallOffsetMs(ms); }
  void JumpWallClock(int64_t ms) { clock_.SetWallOffsetMs(clock_.wall_offset_ms() + ms); }
  void SetClockRate(int64_t ppm);
  int64_t WallMs() const;
  Nanos BootNs() const;
  // No code of this machine runs for this time. Its disk and its sockets go on, and so does its
  // clock (SIGSTOP, or a hypervisor that does not schedule it).
  void Pause(Nanos duration_ns);
  // The same, and its clock stands still (a virtual machine that does not notice).
  void Freeze(Nanos duration_ns);
  // Pauses inside a turn, at the n-th call (from 0) that its code makes into a reactor from within a
  // turn. (See above.)
  void PauseInTurn(Nanos duration_ns, uint64_t calls) { turn_pause_ns_ = duration_ns, turn_pause_calls_ = calls; }
  // Whether the last PauseInTurn is still to come.
  bool pause_in_turn_due() const { return turn_pause_ns_ > 0; }

 private:
  friend class SimKernel;
  friend class SimReactor;
  friend class SimNetwork;
  struct PendingOp {
    uint64_t id = 0;
    IoOp* op = nullptr;
    SimReactor* reactor = nullptr;
    SimDisk::SyncPoint sync;
  };
  SimMachine(SimKernel* kernel, std::string host) : kernel_(kernel), host_(std::move(host)) {}
  bool Hangs(const IoOp& op) const;
  void RearmTimers();
  Nanos TakeTurnPause();  // how long to pause at this call
  void SubmitDisk(SimReactor* reactor, IoOp* op);
  void CompleteDisk(uint64_t id);
  int32_t Perform(const PendingOp& pending);
  int32_t PerformOnFile(const PendingOp& pending);
  int32_t Transfer(const PendingOp& pending);
  int FaultFor(const PendingOp& pending);
  std::string PathOf(const PendingOp& pending, const char* path) const;
  void Stop(bool silent);
  std::optional<SimDisk::InFlight> Describe(const PendingOp& pending) const;

  SimKernel* kernel_;
  const std::string host_;
  SimDisk disk_;
  bool running_ = false;
  // The host is up: connections to it are refused rather than left without an answer.
  bool answers_ = false;
  uint64_t boot_ = 0;
  uint64_t disk_ops_ = 0;
  uint64_t crash_at_ = 0;
  uint64_t next_op_id_ = 1;
  std::vector<PendingOp> pending_;
  std::vector<DiskFault> faults_;
  uint64_t faults_struck_ = 0;
  Nanos disk_stalled_until_ = 0;
  DiskHang disk_hang_ = DiskHang::kNone;
  std::vector<uint64_t> hung_;  // operations whose time to complete came while the disk hung
  Nanos disk_min_ns_ = 0, disk_max_ns_ = 0;
  bool disk_lies_ = false;
  SimClock clock_;
  bool lost_power_ = false;
  Nanos paused_until_ns_ = 0;
  Nanos turn_pause_ns_ = 0;
  uint64_t turn_pause_calls_ = 0;
  uint16_t next_port_ = 40000;
  std::vector<Nanos> pool_free_ns_;  // when each thread for offloaded work has done what it has
  std::unique_ptr<RemoteMesh> mesh_;
  std::vector<std::unique_ptr<SimReactor>> reactors_;
};

template <typename T>
std::optional<detail::Stored<T>> SimKernel::RunTask(SimReactor& reactor, Task<T> task) {
  struct Run {
    static detail::FireAndForget Await(Task<T> t, std::shared_ptr<std::optional<detail::Stored<T>>> out) {
      if constexpr (std::is_void_v<T>) {
        co_await t;
        t = Task<T>();
        out->emplace();
      } else {
        T value = co_await t;
        t = Task<T>();
        out->emplace(std::move(value));
      }
    }
  };
  auto result = std::make_shared<std::optional<detail::Stored<T>>>();
  Run::Await(std::move(task), result);
  Stopped stopped = RunUntil([&] { return result->has_value() || TaskStopped(reactor); });
  CHECK(stopped == Stopped::kPredicate) << "the simulation is stuck: no event is left and the task is not done";
  return std::move(*result);
}

}  // namespace pando

#include "tests/support/sim_reactor.h"
