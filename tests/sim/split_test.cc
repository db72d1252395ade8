// Splits of partitions: the production nodes of a cluster of three (small_cluster.h), writers, and an operator who
// orders splits and gives some of them up, while nodes die, are cut off and hand over, and the topology loses answers.
//
// Each writer has some keys, and gives each of them the numbers from 1 on, one after the other; some numbers stand for
// a removal. So a key has at every moment the last number that was acknowledged, or one of those that were tried after
// it. PANDO_TEST_SEED runs one seed; PANDO_TEST_ROUNDS is the number of seeds.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <set>

#include "src/base/hash_ranges.h"
#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

constexpr uint32_t kPartitions = 2;
constexpr size_t kWriters = 4, kKeysOfWriter = 12;
constexpr uint64_t kSeeds = 6;
constexpr uint64_t kTellingSeeds = 24;  // so many have a bit of everything
constexpr Nanos kStoryNs = 10 * kSecond, kEndsWithin = 90 * kSecond;

struct Counts {
  std::atomic<uint64_t> splits, aborts, writes, reads, refused, unknown, crashes, handovers, cuts, lost_answers;
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
  uint64_t known = 0;  // kReads: the number that was acknowledged when it began
  bool over = false;
  Code code = Code::kOk;
  std::string message;
  std::optional<std::string> value;
  bool done = false;  // of an order
};

Task<void> RunWrite(Partition* partition, WriteOp op, Nanos deadline_ns, std::shared_ptr<Call> call) {
  WriteControl control;
  control.deadline_ns = deadline_ns;
  WriteOptions options;
  options.control = &control;
  std::vector<WriteOp> ops{std::move(op)};
  const Result<std::vector<OpResult>> done = co_await partition->Write(std::move(ops), options);
  call->code = done.code();
  call->message = done.status().message();
  call->over = true;
}

Task<void> RunGet(Partition* partition, std::string key, std::shared_ptr<Call> call) {
  Result<ReadResult> got = co_await partition->Get(std::move(key), kNewest, nullptr);
  call->code = got.code();
  call->message = got.status().message();
  if (got.ok() && got->found) call->value = got->value;
  call->over = true;
}

Task<void> RunOrder(SplitDriver* driver, api::SplitPartitionRequest request, std::shared_ptr<Call> call) {
  const Result<api::SplitPartitionReply> reply = co_await driver->Order(std::move(request));
  call->code = reply.code();
  call->message = reply.status().message();
  call->done = reply.ok() && reply->done;
  call->over = true;
}

Task<void> RunHandover(replication::ReplicaHost* host, uint32_t partition, NodeId to) {
  (void)co_await host->HandOver(partition, to, 0, kSecond);
}

class Story {
 public:
  static constexpr size_t kNodes = SmallCluster::kNodes;

  explicit Story(uint64_t seed) : random_(seed * 0x9e3779b97f4a7c15ull + 5), cluster_(seed, 2, kPartitions) {
    for (size_t i = 0; i < kNodes; ++i) {
      cluster_.machine(i).SetClockRate(random_.Between(-10'000, 10'000));
      cluster_.machine(i).SetClockSkewMs(random_.Between(-500, 500));
    }
    cluster_.engine_options().checkpoint_interval_ns = random_.Between(200, 1500) * kMillisecond;
    tells_ = std::getenv("PANDO_TEST_SEED") != nullptr;
    calm_ = seed % 6 == 0;
  }

  std::string Run() {
    if (!cluster_.StartAll()) return "the cluster does not become whole";
    const Nanos end_ns = now() + kStoryNs;
    next_fault_ns_ = now() + random_.Between(100, 2000) * kMillisecond;
    next_order_ns_ = now() + random_.Between(0, 1000) * kMillisecond;
    while (now() < end_ns && wrong_.empty()) Step(!calm_);
    Heal();
    for (bool& gives_up : gives_up_) gives_up = false;
    const Nanos healed_ns = now();
    while (wrong_.empty() && !WhyNotOver().empty()) {
      Step(false);
      if (now() > healed_ns + kEndsWithin) Wrong("the splits do not end: " + WhyNotOver());
    }
    writing_ = false;
    for (int i = 0; i < 3000 && wrong_.empty(); ++i) Step(false);  // calls end
    ReadAll();
    return wrong_;
  }

 private:
  static constexpr size_t kNobody = kNodes;

  struct Key {
    std::string name;
    uint64_t tried = 0, acked = 0;
    bool seen = false;
  };
  struct Writer {
    std::vector<Key> keys;
    size_t key = 0;
    std::shared_ptr<Call> write, read;
    size_t read_key = 0;
    bool unsettled = false;  // the last number of the key was tried, and is tried again
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
  static bool IsRemoval(uint64_t number) { return number % 7 == 0; }

  // -- where

  bool Serves(uint32_t id) const {
    if (!cluster_.has_record(id)) return false;
    const std::optional<uint32_t> whole = WholeOf(id, kPartitions);
    std::optional<PartitionStage> of_whole;
    if (whole && cluster_.has_record(*whole)) of_whole = cluster_.record(*whole).state;
    return ServesIn(cluster_.record(id).state, of_whole);
  }
  uint32_t PartitionOf(const std::string& key) const {
    const uint64_t hash = HashId(key);
    auto id = static_cast<uint32_t>(hash >> 63);
    while (!Serves(id)) {
      const auto halves = *HalvesOf(id, kPartitions);
      const auto [first, last] = HashRangeOf(halves[0], kPartitions);
      id = hash <= last ? halves[0] : halves[1];
      if (id > 1000) {
        CHECK(false) << "nothing serves the hash " << hash;
      }
    }
    return id;
  }
  // A node that takes itself for the master; it may be wrong.
  size_t AnyMaster(uint32_t partition) {
    std::vector<size_t> masters;
    for (size_t i = 0; i < kNodes; ++i) {
      if (cluster_.up(i) && cluster_.Leads(i, partition)) masters.push_back(i);
    }
    return masters.empty() ? kNobody : masters[random_.Below(masters.size())];
  }
  std::shared_ptr<Call> CallTo(size_t node) {
    auto call = std::make_shared<Call>();
    call->node = node;
    call->life = lives_[node];
    return call;
  }
  bool Lost(const Call& call) { return call.life != lives_[call.node]; }
  bool IsOpen(const std::shared_ptr<Call>& call) { return call && !call->over && !Lost(*call); }
  template <typename Task>
  void Spawn(size_t node, Task task) {
    cluster_.member(node).calls().Spawn(std::move(task));
  }

  void Step(bool faults) {
    if (faults && now() >= next_fault_ns_) Fault();
    for (size_t i = 0; i < kNodes; ++i) {
      if (start_ns_[i] != 0 && now() >= start_ns_[i]) Start(i);
      if (joined_ns_[i] != 0 && now() >= joined_ns_[i]) Isolate(i, false);
    }
    for (size_t w = 0; w < kWriters; ++w) {
      Write(w);
      Read(w);
    }
    Operate();
    cluster_.Run(kMillisecond);
  }

  // -- clients

  Writer& WriterOf(size_t index) {
    Writer& writer = writers_[index];
    while (writer.keys.size() < kKeysOfWriter) {
      writer.keys.emplace_back().name = fmt::format("writer {} key {}", index, writer.keys.size());
    }
    return writer;
  }

  void Write(size_t index) {
    Writer& writer = WriterOf(index);
    if (IsOpen(writer.write)) return;
    if (writer.write) {
      Key& key = writer.keys[writer.key];
      const bool over = writer.write->over;
      const Code code = writer.write->code;
      writer.write.reset();
      if (over && code == Code::kOk) {
        ++shared->counts.writes;
        key.acked = key.tried;
        writer.unsettled = false;
      } else if (over && code != Code::kAborted) {
        ++shared->counts.refused;  // it has no effect, and the number may be given again
      } else {
        ++shared->counts.unknown;
      }
    }
    if (!writing_ || random_.Chance(0.5)) return;
    if (!writer.unsettled) writer.key = random_.Below(writer.keys.size());
    Key& key = writer.keys[writer.key];
    const uint32_t partition = PartitionOf(key.name);
    const size_t node = AnyMaster(partition);
    if (node == kNobody) return;
    // A number that may have been written is written again, and not another one: what is late cannot be told apart.
    if (!std::exchange(writer.unsettled, true)) ++key.tried;
    WriteOp op;
    op.key = key.name;
    if (IsRemoval(key.tried)) {
      op.op = RecordOp::kRemove;
    } else {
      op.value = fmt::format("{}{}", key.tried, std::string(key.tried % 5 == 0 ? 3000 : 10, ' '));
    }
    writer.write = CallTo(node);
    Spawn(node, RunWrite(cluster_.place(node, partition), std::move(op),
                         cluster_.member(node).reactor().NowNs() + kSecond, writer.write));
  }

  void Read(size_t index) {
    Writer& writer = WriterOf(index);
    if (IsOpen(writer.read)) return;
    if (writer.read && writer.read->over && writer.read->code == Code::kOk) {
      ++shared->counts.reads;
      Judge(writer.keys[writer.read_key], *writer.read);
    }
    writer.read.reset();
    if (!random_.Chance(0.2)) return;
    writer.read_key = random_.Below(writer.keys.size());
    const Key& key = writer.keys[writer.read_key];
    const uint32_t partition = PartitionOf(key.name);
    const size_t node = AnyMaster(partition);
    if (node == kNobody) return;
    writer.read = CallTo(node);
    writer.read->known = key.acked;
    Spawn(node, RunGet(cluster_.place(node, partition), key.name, writer.read));
  }

  void Judge(const Key& key, const Call& read) {
    const uint64_t found = read.value ? std::stoull(*read.value) : 0;
    for (uint64_t n = read.known; n <= key.tried; ++n) {
      const bool absent = n == 0 || IsRemoval(n);
      if (absent ? !read.value : found == n) return;
    }
    Wrong(fmt::format("\"{}\": node {} has {}, but {} was acknowledged, and {} was tried last", key.name, read.node + 1,
                      read.value ? std::to_string(found) : "nothing", read.known, key.tried));
  }

  void ReadAll() {
    for (size_t w = 0; w < kWriters && wrong_.empty(); ++w) {
      for (Key& key : WriterOf(w).keys) {
        const uint32_t partition = PartitionOf(key.name);
        const size_t node = cluster_.master(partition);
        if (node == kNobody) return Wrong(fmt::format("partition {} has no master", partition));
        auto call = CallTo(node);
        call->known = key.acked;
        Spawn(node, RunGet(cluster_.place(node, partition), key.name, call));
        for (int i = 0; i < 5000 && !call->over; ++i) cluster_.Run(100 * kMicrosecond);
        if (!call->over || call->code != Code::kOk) return Wrong("a read fails: " + call->message);
        Judge(key, *call);
      }
    }
  }

  // -- the operator: partition 0 is split, perhaps after some splits that are given up, and then one of its halves

  void Operate() {
    if (IsOpen(order_)) return;
    if (order_ && order_->over && order_->code != Code::kOk) Say("an order is refused: {}", order_->message);
    if (order_ && order_->over && order_->done && ordered_abort_) ++shared->counts.aborts;
    order_.reset();
    if (now() < next_order_ns_) return;
    next_order_ns_ = now() + random_.Between(20, random_.Chance(0.5) ? 400 : 1500) * kMillisecond;
    for (const uint32_t whole : kWholes) {
      if (!Serves(whole) || cluster_.record(whole).state != PartitionStage::kServing) continue;
      const size_t node = AnyMaster(whole);
      if (node == kNobody || cluster_.member(node).splits() == nullptr) return;
      api::SplitPartitionRequest request;
      request.partition = static_cast<int32_t>(whole);
      request.rate_mb_s = static_cast<int32_t>(random_.Below(3));
      ordered_abort_ = request.abort = gives_up_[whole] && cluster_.record(whole).split && random_.Chance(0.7);
      Say("{} of partition {} is ordered of node {}", request.abort ? "the end of the split" : "the split", whole,
          node + 1);
      order_ = CallTo(node);
      Spawn(node, RunOrder(cluster_.member(node).splits(), std::move(request), order_));
      return;
    }
  }

  std::string WhyNotOver() {
    for (const uint32_t whole : kWholes) {
      if (!cluster_.has_record(whole) || cluster_.record(whole).state != PartitionStage::kRetired) {
        return fmt::format("partition {} is not split", whole);
      }
    }
    for (uint32_t id = 0; id < kIds; ++id) {
      if (!cluster_.has_record(id)) continue;
      const PartitionRecord record = cluster_.record(id);
      if (record.state == PartitionStage::kBuilding) return fmt::format("partition {} is not open", id);
      const bool serves = record.state == PartitionStage::kServing;
      if (serves && cluster_.master(id) == kNobody) return fmt::format("partition {} has no master", id);
      if (serves && record.isr.size() != kNodes) return fmt::format("partition {} has not healed", id);
      for (size_t i = 0; i < kNodes; ++i) {
        if (!serves && cluster_.replica(i, id) != nullptr) {
          return fmt::format("node {} still has partition {}", i + 1, id);
        }
      }
    }
    return "";
  }

  // -- faults

  void Fault() {
    next_fault_ns_ = now() + random_.Between(100, 1500) * kMillisecond;
    size_t down = 0;
    for (size_t i = 0; i < kNodes; ++i) down += !cluster_.up(i) || joined_ns_[i] != 0;
    const size_t node = random_.Below(kNodes);
    switch (random_.Below(5)) {
      case 0:
      case 1: return HandOverSome();
      case 2:
        if (down > 0 || !cluster_.up(node)) return;
        Say("node {} crashes", node + 1);
        ++shared->counts.crashes;
        ++lives_[node];
        cluster_.Crash(node);
        start_ns_[node] = now() + random_.Between(10, 2000) * kMillisecond;
        return;
      case 3:
        if (down > 0 || !cluster_.up(node)) return;
        ++shared->counts.cuts;
        joined_ns_[node] = now() + random_.Between(50, 2000) * kMillisecond;
        return Isolate(node, true);
      default:
        if (!cluster_.up(node)) return;
        ++shared->counts.lost_answers;
        cluster_.topology_faults(node).unknown_probability = random_.Chance(0.5) ? 0.3 : 0;
        cluster_.topology_faults(node).error_probability = random_.Chance(0.3) ? 0.2 : 0;
        return;
    }
  }

  void HandOverSome() {
    const auto partition = static_cast<uint32_t>(random_.Below(kIds));
    const size_t master = cluster_.master(partition);
    const size_t to = (master + 1 + random_.Below(2)) % kNodes;
    if (master == kNobody || !cluster_.up(to)) return;
    Say("node {} hands partition {} over to {}", master + 1, partition, to + 1);
    ++shared->counts.handovers;
    Spawn(master, RunHandover(cluster_.member(master).host(), partition, static_cast<NodeId>(to + 1)));
  }

  void Isolate(size_t node, bool cut) {
    Say("node {} is {}", node + 1, cut ? "cut off" : "joined again");
    SimNetwork& network = cluster_.kernel().network();
    for (size_t i = 0; i < kNodes; ++i) {
      if (i == node) continue;
      if (cut) {
        network.CutBoth(cluster_.machine(node).host(), cluster_.machine(i).host());
      } else {
        network.Heal(cluster_.machine(node).host(), cluster_.machine(i).host());
        network.Heal(cluster_.machine(i).host(), cluster_.machine(node).host());
      }
    }
    if (!cut) joined_ns_[node] = 0;
  }

  void Start(size_t i) {
    Say("node {} starts", i + 1);
    start_ns_[i] = 0;
    const Status started = cluster_.Start(i);
    if (!started.ok()) Wrong(fmt::format("node {} does not start: {}", i + 1, started.ToString()));
  }

  void Heal() {
    Say("all is healed");
    for (size_t i = 0; i < kNodes; ++i) {
      if (joined_ns_[i] != 0) Isolate(i, false);
      if (start_ns_[i] != 0) Start(i);
      if (cluster_.up(i)) cluster_.topology_faults(i) = SimTopologyFaults();
    }
  }

  static constexpr uint32_t kIds = 20;
  // 0 has the halves 2 and 3, and 3 has 8 and 9.
  static constexpr uint32_t kWholes[] = {0, 3};

  SimRandom random_;
  SmallCluster cluster_;
  bool tells_ = false, calm_ = false, writing_ = true;
  Writer writers_[kWriters];
  uint64_t lives_[kNodes] = {};
  Nanos start_ns_[kNodes] = {}, joined_ns_[kNodes] = {};
  Nanos next_fault_ns_ = 0, next_order_ns_ = 0;
  std::shared_ptr<Call> order_;
  bool ordered_abort_ = false;
  bool gives_up_[kIds] = {true, false, false, true};
  std::string wrong_;
};

// Each story has a process of its own, because crashed members are kept (K3).
bool RunSeed(uint64_t seed) {
  shared->wrong[0] = 0;
  const bool fine = InChildProcess([seed] {
    FLAGS_minloglevel = std::getenv("PANDO_TEST_LOG") != nullptr ? 0 : 3;
    const std::string wrong = Story(seed).Run();
    std::strncpy(shared->wrong, wrong.c_str(), sizeof(shared->wrong) - 1);
    return wrong.empty();
  });
  EXPECT_TRUE(fine) << "seed " << seed << ": " << shared->wrong << "\nreplay: PANDO_TEST_SEED=" << seed
                    << " PANDO_TEST_LOG=1 build/release/bin/sim_split";
  return fine;
}

TEST(Split, PartitionsAreSplitWhileNodesFail) {
  if (const char* one = std::getenv("PANDO_TEST_SEED")) {
    RunSeed(std::strtoull(one, nullptr, 10));
    return;
  }
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t seeds = rounds == nullptr ? kSeeds : std::strtoull(rounds, nullptr, 10);
  for (uint64_t seed = 1; seed <= seeds; ++seed) RunSeed(seed);
  const Counts& c = shared->counts;
  std::cout << seeds << " seeds: " << c.writes << " writes and " << c.reads << " reads, " << c.refused << " refused, "
            << c.unknown << " unknown; " << c.aborts << " splits given up; " << c.crashes << " crashes, " << c.cuts
            << " cuts, " << c.handovers << " handovers, " << c.lost_answers << " changes of what the topology loses\n";
  if (seeds < kTellingSeeds) return;
  EXPECT_GT(c.writes, 1000u);
  EXPECT_GT(c.aborts, 0u);
  EXPECT_GT(c.crashes, 0u);
}

}  // namespace
}  // namespace pando
