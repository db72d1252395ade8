// Snapshots of a whole cluster: the production nodes of a cluster of three with two partitions (small_cluster.h),
// writers that go from one partition to the other, and a coordinator, while masters die, are cut off, and hand over.
//
// Each writer puts a number into the first partition, and, once that is acknowledged, the same number into the second
// one. So at every moment second <= first <= second + 1, and so it is in every snapshot that all partitions have
// confirmed. PANDO_TEST_SEED runs one seed; PANDO_TEST_ROUNDS is the number of seeds.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <new>
#include <optional>

#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

constexpr uint32_t kPartitions = 2;
constexpr size_t kWriters = 4;
constexpr uint64_t kSeeds = 24;
constexpr Nanos kStoryNs = 8 * kSecond, kHealsWithin = 20 * kSecond;
constexpr Nanos kSnapshotNs = 4 * kSecond;
constexpr int64_t kTtlMs = 60'000;
constexpr size_t kKept = 16;  // snapshots that are looked at again

struct Counts {
  std::atomic<uint64_t> snapshots, refused, given_up, failovers, reads, reads_after_failover, gone, writes, crashes;
};
struct Shared {
  Counts counts;
  char wrong[1000] = {};
};
Shared* shared = [] {
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  PCHECK(memory != MAP_FAILED) << "mmap";
  return new (memory) Shared;
}();

// A call to one node. It is not over if the node has crashed meanwhile.
struct Call {
  size_t node = 0;
  uint64_t life = 0;
  Nanos since_ns = 0;
  bool over = false;
  Code code = Code::kOk;
  Version version = 0;
  std::optional<int64_t> number;
  std::string message;
};

Task<void> RunPut(Partition* partition, std::string key, int64_t number, Version seen, Nanos deadline_ns,
                  std::shared_ptr<Call> call) {
  WriteControl control;
  control.deadline_ns = deadline_ns;
  WriteOptions options;
  options.seen_version = seen;
  options.control = &control;
  std::vector<WriteOp> ops(1);
  ops[0].key = std::move(key);
  ops[0].value = std::to_string(number);
  Result<std::vector<OpResult>> done = co_await partition->Write(std::move(ops), options);
  call->code = done.code();
  if (done.ok()) call->version = done->front().version;
  call->over = true;
}

Task<void> RunClock(Partition* partition, std::shared_ptr<Call> call) {
  Result<Version> highest = co_await partition->HighestVersion();
  call->code = highest.code();
  if (highest.ok()) call->version = *highest;
  call->over = true;
}

Task<void> RunClose(Partition* partition, CloseMark mark, std::shared_ptr<Call> call) {
  Result<SessionPoint> closed = co_await partition->CloseAt(mark);
  call->code = closed.code();
  call->message = closed.status().message();
  call->over = true;
}

Task<void> RunGet(Partition* partition, std::string key, SnapshotId snapshot, std::shared_ptr<Call> call) {
  Result<ReadResult> got = co_await partition->Get(std::move(key), snapshot, nullptr);
  call->code = got.code();
  call->message = got.status().message();
  if (got.ok()) call->number = got->found ? std::stoll(got->value) : 0;
  call->over = true;
}

Task<void> RunRelease(Partition* partition, SnapshotId snapshot) {
  const Status released = co_await partition->ReleaseSnapshot(snapshot);
  (void)released;  // it may be gone, or the master another one
}

class Story {
 public:
  explicit Story(uint64_t seed) : random_(seed * 0x9e3779b97f4a7c15ull + 11), cluster_(seed, 2, kPartitions) {
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      cluster_.machine(i).SetClockRate(random_.Between(-10'000, 10'000));
      cluster_.machine(i).SetClockSkewMs(random_.Between(-1500, 1500));
    }
    cluster_.engine_options().checkpoint_interval_ns = random_.Between(100, 1500) * kMillisecond;
    tells_ = std::getenv("PANDO_TEST_SEED") != nullptr;
  }

  std::string Run() {
    if (!cluster_.StartAll()) return "the cluster does not become whole";
    const Nanos end_ns = now() + kStoryNs;
    next_fault_ns_ = now() + random_.Between(100, 800) * kMillisecond;
    while (now() < end_ns && wrong_.empty()) Step(true);
    Heal();
    const Nanos healed_ns = now();
    // A snapshot succeeds again.
    const uint64_t before = confirmed_;
    while (wrong_.empty() && confirmed_ < before + 2) {
      Step(false);
      if (now() > healed_ns + kHealsWithin) Wrong("no snapshot is confirmed after the faults");
    }
    for (const Taken& taken : taken_) LookAgain(taken);
    return wrong_;
  }

 private:
  static constexpr size_t kNobody = SmallCluster::kNodes;

  struct Writer {
    int64_t number = 1;
    uint32_t partition = 0;
    Version seen = 0;
    int64_t acked[kPartitions] = {};
    std::shared_ptr<Call> call;
    Nanos next_ns = 0;
  };
  using Numbers = std::vector<std::vector<int64_t>>;  // by partition and writer
  struct Taken {
    CloseMark mark;
    Numbers numbers;
    uint64_t lives[SmallCluster::kNodes] = {};
    bool in_sync[SmallCluster::kNodes][kPartitions] = {};
    size_t master[kPartitions] = {};
  };

  Nanos now() { return cluster_.kernel().now_ns(); }
  template <typename... Args>
  void Say(fmt::format_string<Args...> format, Args&&... args) {
    if (!tells_) return;
    const std::string line = fmt::format(format, std::forward<Args>(args)...);
    fprintf(stderr, "%9.3f ms  %s\n", static_cast<double>(now()) / static_cast<double>(kMillisecond), line.c_str());
  }
  void Wrong(const std::string& what) {
    if (wrong_.empty()) wrong_ = what;
    Say("WRONG: {}", what);
  }
  std::string KeyOf(size_t writer, uint32_t partition) { return fmt::format("w{} of {}", writer, partition); }

  // A node that takes itself for the master; it may be wrong.
  size_t AnyMaster(uint32_t partition) {
    std::vector<size_t> masters;
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      if (cluster_.up(i) && cluster_.Leads(i, partition)) masters.push_back(i);
    }
    return masters.empty() ? kNobody : masters[random_.Below(masters.size())];
  }
  std::shared_ptr<Call> CallTo(size_t node) {
    auto call = std::make_shared<Call>();
    call->node = node;
    call->life = lives_[node];
    call->since_ns = now();
    return call;
  }
  bool Lost(const Call& call) { return call.life != lives_[call.node]; }
  template <typename Task>
  void Spawn(size_t node, Task task) {
    cluster_.member(node).calls().Spawn(std::move(task));
  }

  void Step(bool faults) {
    if (faults && now() >= next_fault_ns_) Fault();
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      if (start_ns_[i] != 0 && now() >= start_ns_[i]) Start(i);
      if (joined_ns_[i] != 0 && now() >= joined_ns_[i]) Isolate(i, false);
    }
    for (size_t w = 0; w < kWriters; ++w) Write(w);
    Coordinate();
    if (!taken_.empty() && random_.Chance(0.02)) LookAgain(taken_[random_.Below(taken_.size())]);
    cluster_.Run(kMillisecond);
  }

  // -- writers

  void Write(size_t index) {
    Writer& writer = writers_[index];
    if (writer.call && !writer.call->over && !Lost(*writer.call)) return;
    if (writer.call && writer.call->over && writer.call->code == Code::kOk) {
      ++shared->counts.writes;
      writer.seen = std::max(writer.seen, writer.call->version);
      writer.acked[writer.partition] = writer.number;
      writer.number += writer.partition == kPartitions - 1;
      writer.partition = (writer.partition + 1) % kPartitions;
      // Most go on at once: what they have just seen acknowledged is the newest.
      writer.next_ns = random_.Chance(0.8) ? now() : now() + random_.Between(0, 20) * kMillisecond;
    }
    // Otherwise it does the same again, whatever came of it.
    writer.call.reset();
    const size_t node = AnyMaster(writer.partition);
    if (now() < writer.next_ns || node == kNobody) return;
    writer.call = CallTo(node);
    const Nanos deadline_ns = cluster_.member(node).reactor().NowNs() + kSecond;
    Spawn(node, RunPut(cluster_.place(node, writer.partition), KeyOf(index, writer.partition), writer.number,
                       writer.seen, deadline_ns, writer.call));
  }

  // -- the coordinator

  void Coordinate() {
    if (phase_ == Phase::kIdle) {
      if (now() >= next_snapshot_ns_) BeginSnapshot();
      return;
    }
    if (now() > began_ns_ + kSnapshotNs) {
      ++shared->counts.given_up;
      return GiveUp();
    }
    if (phase_ == Phase::kClock) return AskClocks();
    if (phase_ == Phase::kPrepare) return AskToClose();
    Look();
  }

  void BeginSnapshot() {
    phase_ = Phase::kClock;
    began_ns_ = now();
    for (auto& call : calls_) call.reset();
    acked_.assign(kPartitions, std::vector<int64_t>(kWriters));
    for (uint32_t p = 0; p < kPartitions; ++p) {
      for (size_t w = 0; w < kWriters; ++w) acked_[p][w] = writers_[w].acked[p];
    }
  }

  void Release(SnapshotId id) {
    for (uint32_t p = 0; p < kPartitions; ++p) {
      const size_t node = AnyMaster(p);
      if (node != kNobody) Spawn(node, RunRelease(cluster_.place(node, p), id));
    }
  }

  // It has come to nothing.
  void GiveUp() {
    if (phase_ == Phase::kPrepare) Release(mark_.id);
    EndSnapshot();
  }

  void EndSnapshot() {
    phase_ = Phase::kIdle;
    next_snapshot_ns_ = now() + random_.Between(0, 60) * kMillisecond;
  }

  void AskClocks() {
    Version highest = 0;
    for (uint32_t p = 0; p < kPartitions; ++p) {
      std::shared_ptr<Call>& call = calls_[p];
      if (call && call->over && call->code == Code::kOk) {
        highest = std::max(highest, call->version);
        continue;
      }
      highest = UINT64_MAX;
      if (call && !call->over && !Lost(*call)) continue;
      call.reset();
      const size_t node = AnyMaster(p);
      if (node == kNobody) continue;
      call = CallTo(node);
      Spawn(node, RunClock(cluster_.place(node, p), call));
    }
    if (highest == UINT64_MAX) return;
    mark_.id = random_.Next() | 1;
    mark_.version = highest + VersionAtMs(20);
    mark_.expires_at_ms = VersionMs(mark_.version) + kTtlMs;
    phase_ = Phase::kPrepare;
    for (uint32_t p = 0; p < kPartitions; ++p) {
      calls_[p].reset();
      ask_ns_[p] = now() + random_.Between(0, 30) * kMillisecond;
    }
  }

  void AskToClose() {
    size_t confirmed = 0;
    for (uint32_t p = 0; p < kPartitions; ++p) {
      std::shared_ptr<Call>& call = calls_[p];
      if (call && call->over && call->code == Code::kOk) {
        ++confirmed;
        continue;
      }
      if (now() < ask_ns_[p] || (call && !call->over && !Lost(*call))) continue;
      if (call && call->over && call->code != Code::kNotMaster && call->code != Code::kAborted) {
        Say("the snapshot at {} is refused: {}", mark_.version, call->message);
        ++shared->counts.refused;
        return GiveUp();
      }
      call.reset();
      const size_t node = AnyMaster(p);
      if (node == kNobody) continue;
      call = CallTo(node);
      Spawn(node, RunClose(cluster_.place(node, p), mark_, call));
    }
    if (confirmed < kPartitions) return;
    ++shared->counts.snapshots;
    Say("the snapshot at {} is confirmed", mark_.version);
    taking_ = Taken();
    taking_.mark = mark_;
    for (uint32_t p = 0; p < kPartitions; ++p) taking_.master[p] = calls_[p]->node;
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      taking_.lives[i] = lives_[i];
      for (uint32_t p = 0; p < kPartitions; ++p) taking_.in_sync[i][p] = cluster_.InSync(i, p);
    }
    phase_ = Phase::kLook;
  }

  // Reads all numbers of the snapshot at one node for each partition. Nothing: it is not there.
  std::optional<Numbers> ReadAll(const CloseMark& mark, const std::vector<size_t>& nodes, std::string* why) {
    Numbers numbers(kPartitions);
    for (uint32_t p = 0; p < kPartitions; ++p) {
      for (size_t w = 0; w < kWriters; ++w) {
        auto call = CallTo(nodes[p]);
        Spawn(nodes[p], RunGet(cluster_.place(nodes[p], p), KeyOf(w, p), mark.id, call));
        for (int i = 0; i < 5000 && !call->over; ++i) cluster_.Run(100 * kMicrosecond);
        if (!call->over) Wrong("a read of a snapshot does not end");
        if (call->code != Code::kOk) {
          *why = call->message;
          if (call->code != Code::kSnapshotGone && call->code != Code::kUnavailable) Wrong("a read: " + call->message);
          return std::nullopt;
        }
        numbers[p].push_back(*call->number);
      }
    }
    return numbers;
  }

  void Look() {
    std::vector<size_t> nodes(kPartitions);
    for (uint32_t p = 0; p < kPartitions; ++p) {
      nodes[p] = taking_.master[p];
      // It has crashed at once, perhaps before the other partition had confirmed.
      if (Lost(*calls_[p])) return EndSnapshot();
    }
    std::string why;
    const std::optional<Numbers> numbers = ReadAll(taking_.mark, nodes, &why);
    if (!numbers) return Wrong("a snapshot that was confirmed is not there: " + why);
    ++shared->counts.reads;
    for (size_t w = 0; w < kWriters; ++w) {
      const int64_t first = (*numbers)[0][w], second = (*numbers)[1][w];
      if (second > first || first > second + 1) {
        Wrong(fmt::format("writer {}: the snapshot at {} has {} in the first partition and {} in the second", w,
                          taking_.mark.version, first, second));
      }
      for (uint32_t p = 0; p < kPartitions; ++p) {
        if ((*numbers)[p][w] < acked_[p][w]) {
          Wrong(fmt::format("writer {}: the snapshot at {} has {} in partition {}, but {} was acknowledged before", w,
                            taking_.mark.version, (*numbers)[p][w], p, acked_[p][w]));
        }
        if (!taken_.empty() && (*numbers)[p][w] < taken_.back().numbers[p][w]) {
          Wrong(fmt::format("writer {}: the snapshot at {} is older than the one before", w, taking_.mark.version));
        }
      }
    }
    taking_.numbers = *numbers;
    taken_.push_back(taking_);
    ++confirmed_;
    if (taken_.size() > kKept) {
      Release(taken_.front().mark.id);
      taken_.erase(taken_.begin());
    }
    EndSnapshot();
  }

  // Whoever leads now has it, unless it was started again or was away when the snapshot was taken.
  void LookAgain(const Taken& taken) {
    std::vector<size_t> nodes(kPartitions);
    bool moved = false, must = true;
    for (uint32_t p = 0; p < kPartitions; ++p) {
      nodes[p] = cluster_.master(p);
      if (nodes[p] == kNobody) return;
      moved |= nodes[p] != taken.master[p];
      must &= lives_[nodes[p]] == taken.lives[nodes[p]] && taken.in_sync[nodes[p]][p];
    }
    if (cluster_.member(nodes[0]).reactor().WallMs() > taken.mark.expires_at_ms - kTtlMs / 2) return;
    std::string why;
    const std::optional<Numbers> numbers = ReadAll(taken.mark, nodes, &why);
    if (!wrong_.empty()) return;
    if (!numbers) {
      ++shared->counts.gone;
      if (must) Wrong(fmt::format("the snapshot at {} is gone: {}", taken.mark.version, why));
      return;
    }
    ++(moved ? shared->counts.reads_after_failover : shared->counts.reads);
    if (*numbers != taken.numbers) Wrong(fmt::format("the snapshot at {} has changed", taken.mark.version));
  }

  // -- faults

  void Fault() {
    next_fault_ns_ = now() + random_.Between(200, 1200) * kMillisecond;
    size_t down = 0;
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) down += !cluster_.up(i) || joined_ns_[i] != 0;
    const size_t node = random_.Below(SmallCluster::kNodes);
    const auto partition = static_cast<uint32_t>(random_.Below(kPartitions));
    const size_t master = cluster_.master(partition);
    const uint64_t choice = random_.Below(3);
    if (choice == 2 && master != kNobody) {
      const size_t to = (master + 1 + random_.Below(2)) % SmallCluster::kNodes;
      if (!cluster_.up(to)) return;
      Say("node {} hands partition {} over to {}", master + 1, partition, to + 1);
      ++shared->counts.failovers;
      Spawn(master, HandOver(cluster_.member(master).host(), partition, static_cast<NodeId>(to + 1)));
      return;
    }
    if (down > 0 || !cluster_.up(node)) return;
    if (choice == 0) {
      Say("node {} crashes", node + 1);
      ++shared->counts.crashes;
      cluster_.Crash(node);
      ++lives_[node];
      start_ns_[node] = now() + random_.Between(50, 2500) * kMillisecond;
    } else {
      Say("node {} is cut off", node + 1);
      Isolate(node, true);
      joined_ns_[node] = now() + random_.Between(100, 2500) * kMillisecond;
    }
  }
  static Task<void> HandOver(replication::ReplicaHost* host, uint32_t partition, NodeId to) {
    Result<replication::HandoverResult> done = co_await host->HandOver(partition, to, 0, kSecond);
    (void)done;
  }
  void Start(size_t i) {
    Say("node {} starts", i + 1);
    start_ns_[i] = 0;
    const Status started = cluster_.Start(i);
    if (!started.ok()) Wrong("a node does not start: " + started.ToString());
  }
  void Isolate(size_t node, bool cut) {
    if (!cut) Say("node {} is connected again", node + 1);
    joined_ns_[node] = 0;
    SimNetwork& network = cluster_.kernel().network();
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      if (i == node) continue;
      if (cut) {
        network.CutBoth(cluster_.machine(node).host(), cluster_.machine(i).host());
      } else {
        network.Heal(cluster_.machine(node).host(), cluster_.machine(i).host());
        network.Heal(cluster_.machine(i).host(), cluster_.machine(node).host());
      }
    }
  }
  void Heal() {
    for (size_t i = 0; i < SmallCluster::kNodes; ++i) {
      if (start_ns_[i] != 0) Start(i);
      if (joined_ns_[i] != 0) Isolate(i, false);
    }
  }

  enum class Phase { kIdle, kClock, kPrepare, kLook };

  SimRandom random_;
  SmallCluster cluster_;
  bool tells_ = false;
  uint64_t lives_[SmallCluster::kNodes] = {};
  Nanos start_ns_[SmallCluster::kNodes] = {}, joined_ns_[SmallCluster::kNodes] = {};
  Nanos next_fault_ns_ = 0;
  Writer writers_[kWriters];
  // -- the coordinator
  Phase phase_ = Phase::kIdle;
  Nanos began_ns_ = 0, next_snapshot_ns_ = 0, ask_ns_[kPartitions] = {};
  std::shared_ptr<Call> calls_[kPartitions];
  CloseMark mark_;
  Numbers acked_;  // before it began
  Taken taking_;
  std::vector<Taken> taken_;  // the newest
  uint64_t confirmed_ = 0;
  std::string wrong_;
};

TEST(ClusterSnapshots, AreOneMomentUnderFaults) {
  const char* only = std::getenv("PANDO_TEST_SEED");
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t begin = only ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t seeds = only ? 1 : rounds ? std::strtoull(rounds, nullptr, 10) : kSeeds;
  for (uint64_t seed = begin; seed < begin + seeds; ++seed) {
    const bool ok = InChildProcess([seed] {
      FLAGS_minloglevel = std::getenv("PANDO_TEST_LOG") ? 0 : 3;
      FLAGS_logtostderr = true;
      const std::string wrong = Story(seed).Run();
      std::strncpy(shared->wrong, wrong.c_str(), sizeof(shared->wrong) - 1);
      return wrong.empty();
    });
    ASSERT_TRUE(ok) << "seed " << seed << ": " << shared->wrong << "\nPANDO_TEST_SEED=" << seed
                    << " sim_cluster_snapshots --gtest_filter=ClusterSnapshots.*";
  }
  const Counts& c = shared->counts;
  std::cout << fmt::format(
      "{} seeds: {} snapshots confirmed, {} refused, {} given up; {} read, {} after a failover, {} gone; {} writes, {} "
      "crashes, {} handovers\n",
      seeds, c.snapshots.load(), c.refused.load(), c.given_up.load(), c.reads.load(), c.reads_after_failover.load(),
      c.gone.load(), c.writes.load(), c.crashes.load(), c.failovers.load());
  if (only) return;
  EXPECT_GT(c.snapshots, 5 * seeds);
  EXPECT_GT(c.reads_after_failover, seeds);
  EXPECT_GT(c.crashes, seeds);
}

}  // namespace
}  // namespace pando
