// SplitRun fills the halves of a partition whose master is here, and makes the switch (docs/SPLIT.md, steps 2 to 5).
//
// Threads: the reactor of the partition. SplitControl belongs to reactor 0, which reads and writes it at any time.
//
// Invariants
//   SX1  Writes are held for at most kHoldNs, unless a swap of the record is under way.
//   SX2  The partition is retired only after the halves have had everything that it ever acknowledged, committed, with
//        the same sums (SP3), and have been sealed (SP6), all while its writes were held.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "src/engine/snapshot_cut.h"
#include "src/io/pace.h"
#include "src/io/sync.h"
#include "src/model/partition.h"
#include "src/partition/split_feed.h"
#include "src/replication/replica_host.h"

namespace pando {

enum class SplitPhase : uint8_t { kPreparing, kCopying, kCatchingUp, kSwitching, kOpening, kGivingUp };
std::string_view NameOf(SplitPhase phase);

// What the run and its owner tell each other.
struct SplitControl {
  // -- to the run
  std::atomic<bool> cancelled{false};   // nobody wants it any more
  std::atomic<bool> stopping{false};    // the node ends: do not even wait for the outcome of a swap
  std::atomic<bool> restart{false};     // something is wrong with a half: this run ends, and another one begins
  std::atomic<bool> may_switch{false};  // each half has enough replicas in sync
  std::atomic<uint32_t> rate_mb_s{0};
  // -- from the run
  std::atomic<SplitPhase> phase{SplitPhase::kPreparing};
  std::atomic<uint64_t> copied_bytes{0}, total_bytes{0};  // of records of the partition
  std::atomic<uint64_t> written_bytes{0};                 // into the halves
  std::atomic<const char*> waits_for{""};
};

class SplitRun {
 public:
  struct Parts {
    uint32_t id = 0;
    Partition* whole = nullptr;  // by stored keys, on this reactor, and readable without a lease
    std::array<SplitFeed::Half, 2> halves;
    replication::ReplicaHost* host = nullptr;
  };
  // All pointers outlive it.
  SplitRun(Reactor& reactor, Parts parts, SplitControl* control);

  ~SplitRun();
  // Returns OK once the partition is retired. After an error it is not, as far as is known, and nothing is held;
  // another run may begin. `claim`: that nobody has used.
  Task<Status> Run(std::string claim);

  static constexpr Nanos kHoldNs = 2 * kSecond;

 private:
  class Source;
  class Target;
  static constexpr Nanos kFastNs = 20 * kMillisecond;    // a round of the feed
  static constexpr Nanos kMostNs = 500 * kMillisecond;   // a round after which writes may be held
  static constexpr Nanos kPauseNs = 200 * kMillisecond;  // between attempts to switch, at first
  static constexpr Nanos kMaxPauseNs = 5 * kSecond;
  static constexpr Nanos kRetireNs = 2 * kSecond;
  static constexpr Nanos kSliceNs = 50 * kMillisecond;  // of a sleep
  static constexpr Nanos kRenewNs = 20 * kSecond;
  static constexpr int64_t kSnapshotMs = 120'000;
  static constexpr int kSumsTries = 5;

  Status CheckWanted() const;
  Task<void> SleepFor(Nanos duration_ns);
  Task<void> KeepPace(uint64_t bytes);
  Task<Result<SnapshotInfo>> Cut();
  Task<Status> Follow(SnapshotInfo next);
  Task<void> Release(SnapshotId* id);
  Task<void> KeepSnapshot();
  Task<Status> CopyAndSwitch(std::string claim);
  Task<Status> CatchUp();
  const char* WhyNotYet(Nanos round_ns) const;
  Task<Result<bool>> TrySwitch();
  Task<Result<SnapshotInfo>> CutHeld();
  Task<Status> FillWhileHeld(SnapshotInfo cut);
  Task<Result<bool>> Retire();

  Reactor& reactor_;
  Parts parts_;
  SplitControl& control_;
  std::unique_ptr<Source> source_;
  std::array<std::unique_ptr<Target>, 2> targets_;
  std::unique_ptr<SplitFeed> feed_;
  SnapshotId at_ = 0;    // the halves are as it is, or come to be so; 0: none
  SnapshotId next_ = 0;  // the one that they follow meanwhile; 0: none
  bool unpaced_ = false;
  uint32_t rate_mb_s_ = 0;
  std::optional<Pace> pace_;
  bool over_ = false;
  TaskGroup tasks_;
};

// Removes the claim from a half that is led here, whose partition is split, and returns the LSN from which on its
// replicas have that. `half`: by stored keys, on this reactor.
Task<Result<Lsn>> OpenHalf(Partition* half);

}  // namespace pando
