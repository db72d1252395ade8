// Topology, TopologyWatch and start counters over a store in memory that fails in every way, on the
// simulated kernel.
#include "src/topology/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "src/topology/start_counter.h"
#include "src/topology/topology_watch.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_topology.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::HasSubstr;
using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 200 * kMillisecond;
const std::string kClientAddress = "127.0.0.1:1", kPeerAddress = "127.0.0.1:2";

NodeRecord NewNode(NodeId id) {
  NodeRecord node;
  node.id = id;
  node.client_address = kClientAddress;
  node.peer_addresses = {kPeerAddress};
  return node;
}

// One machine, and clients of one topology.
class World {
 public:
  explicit World(uint64_t seed) : kernel(seed), machine(kernel.AddMachine()) { machine->Boot(); }
  Reactor& reactor() { return *machine->reactor(); }
  std::unique_ptr<Topology> Client(SimTopologyFaults faults = {}) {
    auto store = std::make_unique<SimTopology>(reactor(), &server, faults);
    stores.push_back(store.get());
    return std::make_unique<Topology>(reactor(), std::move(store));
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  SimKernel kernel;
  SimMachine* machine;
  SimTopologyServer server;
  std::vector<SimTopology*> stores;
};

std::string ValueOf(const std::string& op_id, int count) {
  NodeRecord node = NewNode(1);
  node.starts = static_cast<uint64_t>(count);
  node.op_id = op_id;
  return *Encode(node);
}

// -- unknown outcomes

struct Ledger {
  std::set<std::string> stored, unknown, conflict;  // op_ids by outcome
  std::set<std::string> landed;                     // unknown ones that JudgeUnknown has found to be stored
  std::set<uint64_t> ruled_out;                     // or to be lost for good
};

// Raises a counter again and again. When an outcome is unknown, reads until it is settled; while it
// may still land, settles it by writing again.
Task<void> Raise(Topology* t, int times, Ledger* ledger) {
  Reactor& reactor = t->reactor();
  for (int i = 0; i < times; ++i) {
    Result<TopologyEntry> now = co_await t->Read("node/1", kTimeout);
    if (!now.ok()) continue;
    const uint64_t count = now->revision == 0 ? 0 : DecodeNode(*now)->starts;
    const std::string op_id = NewOpId(reactor);
    std::string value = ValueOf(op_id, static_cast<int>(count) + 1);
    Result<CasOutcome> outcome = co_await t->CompareAndSwap("node/1", now->revision, std::move(value), kTimeout);
    if (!outcome.ok()) continue;
    if (outcome->kind == Kind::kStored) ledger->stored.insert(op_id);
    if (outcome->kind == Kind::kConflict) ledger->conflict.insert(op_id);
    if (outcome->kind != Kind::kUnknown) continue;
    ledger->unknown.insert(op_id);
    EXPECT_FALSE(outcome->why.ok());
    for (int looks = 0; looks < 5; ++looks) {
      Result<TopologyEntry> later = co_await t->Read("node/1", kTimeout);
      if (!later.ok()) continue;
      const Judged judged = JudgeUnknown(now->revision, op_id, *later);
      if (judged == Judged::kLanded) ledger->landed.insert(op_id);
      if (judged != Judged::kMayLand) break;
      co_await Sleep(reactor, 50 * kMillisecond);
    }
  }
}

Task<void> RaiseAll(std::vector<std::unique_ptr<Topology>>* clients, Ledger* ledger) {
  Together together;
  for (auto& client : *clients) together.Add(Raise(client.get(), 40, ledger));
  co_await together.Wait();
}

TEST(TopologyTest, UnknownOutcomesAreNeitherSuccessNorFailure) {
  size_t unknown = 0, landed = 0, history = 0;
  for (const uint64_t seed : Seeds(30)) {
    SCOPED_TRACE(Replay(seed));
    World world(seed);
    SimTopologyFaults faults;
    faults.unknown_probability = 0.3;
    faults.error_probability = 0.1;
    world.server.kept_changes = 100'000;
    std::vector<std::unique_ptr<Topology>> clients;
    for (int i = 0; i < 3; ++i) clients.push_back(world.Client(faults));
    Ledger ledger;
    world.Run(RaiseAll(&clients, &ledger));
    for (auto& client : clients) EXPECT_OK(world.Run(client->Close()));
    // What has really happened, in order.
    std::set<std::string> happened;
    uint64_t count = 0;
    for (const TopologyEntry& change : world.server.history()) {
      EXPECT_TRUE(happened.insert(*OpIdOf(change.value)).second) << "applied twice";
      EXPECT_EQ(DecodeNode(change)->starts, ++count) << "an update was lost";
    }
    for (const std::string& op : ledger.stored) EXPECT_TRUE(happened.contains(op));
    for (const std::string& op : ledger.conflict) EXPECT_FALSE(happened.contains(op));
    for (const std::string& op : ledger.landed) EXPECT_TRUE(happened.contains(op));
    for (const std::string& op : happened) EXPECT_TRUE(ledger.stored.contains(op) || ledger.unknown.contains(op));
    unknown += ledger.unknown.size();
    landed += ledger.landed.size();
    history += happened.size();
  }
  EXPECT_GT(unknown, 100u);
  EXPECT_GT(landed, 20u);
  EXPECT_GT(history, 300u);
}

TEST(TopologyTest, JudgesUnknownOutcomes) {
  EXPECT_EQ(JudgeUnknown(5, "7", {"node/1", ValueOf("3", 1), 5}), Judged::kMayLand);
  EXPECT_EQ(JudgeUnknown(0, "7", {"node/1", "", 0}), Judged::kMayLand);
  EXPECT_EQ(JudgeUnknown(5, "7", {"node/1", ValueOf("7", 1), 6}), Judged::kLanded);
  EXPECT_EQ(JudgeUnknown(5, "7", {"node/1", ValueOf("8", 1), 6}), Judged::kOvertaken);
  EXPECT_EQ(JudgeUnknown(5, "7", {"node/1", "?", 6}), Judged::kOvertaken);
  // The value that it replaced may be its own, of an earlier write.
  EXPECT_EQ(JudgeUnknown(5, "7", {"node/1", ValueOf("7", 1), 5}), Judged::kMayLand);
}

// -- deadlines and limits

// A store whose calls end only when it is told to.
class StuckStore final : public TopologyStore {
 public:
  explicit StuckStore(Reactor& reactor) : queue_(reactor) {}
  Task<Result<TopologyEntry>> Read(std::string key, Nanos) override {
    co_await queue_.Wait();
    co_return TopologyEntry{key, "", 0};
  }
  Task<Result<TopologyListing>> List(Nanos) override {
    co_await queue_.Wait();
    co_return TopologyListing{};
  }
  Task<Result<TopologyChanges>> ReadChanges(Revision, Nanos) override {
    co_await queue_.Wait();
    co_return TopologyChanges{};
  }
  Task<Result<CasOutcome>> CompareAndSwap(std::string, Revision expected, std::string, Nanos) override {
    co_await queue_.Wait();
    co_return CasOutcome::Stored(expected + 1);
  }
  Task<Result<TopologyChanges>> WaitForChange(Revision, Nanos) override {
    co_await queue_.Wait();
    co_return TopologyChanges{};
  }
  void EndWaits() override { queue_.NotifyAll(); }
  Task<Status> Close() override { co_return Status(); }
  bool one_counter() const override { return true; }
  const std::string& name() const override { return name_; }
  size_t waiting() const { return queue_.size(); }

 private:
  WaitQueue queue_;
  const std::string name_ = "stuck:store";
};

Task<void> CallAll(Topology* t) {
  const Nanos begin = t->reactor().NowNs();
  EXPECT_EQ((co_await t->Read("node/1", kTimeout)).code(), Code::kDeadline);
  EXPECT_EQ((co_await t->List(kTimeout)).code(), Code::kDeadline);
  EXPECT_EQ((co_await t->WaitForChange(0, kTimeout)).code(), Code::kDeadline);
  EXPECT_EQ((co_await t->ReadChanges(0, kTimeout)).code(), Code::kDeadline);
  Result<CasOutcome> outcome = co_await t->CompareAndSwap("node/1", 0, "value", kTimeout);
  EXPECT_OK(outcome.status());
  EXPECT_EQ(outcome->kind, Kind::kUnknown);
  EXPECT_THAT(outcome->why.message(), HasSubstr("read the key to learn what came of it"));
  EXPECT_LE(t->reactor().NowNs() - begin, 5 * (kTimeout + kTopologyGraceNs) + kMillisecond);
  for (size_t calls = 5; calls < kMaxTopologyCalls; ++calls) {
    EXPECT_EQ((co_await t->Read("node/1", kMillisecond)).code(), Code::kDeadline);
  }
  EXPECT_EQ((co_await t->Read("node/1", kTimeout)).code(), Code::kOverloaded);
  EXPECT_EQ((co_await t->CompareAndSwap("node/1", 0, "", kTimeout)).code(), Code::kOverloaded);
  EXPECT_EQ(t->metrics().calls_in_progress.value(), static_cast<int64_t>(kMaxTopologyCalls));
}

// TC1, TC3
TEST(TopologyTest, CallsEndInTimeAndAreLimited) {
  World world(3);
  auto store = std::make_unique<StuckStore>(world.reactor());
  StuckStore* stuck = store.get();
  Topology topology(world.reactor(), std::move(store));
  world.Run(CallAll(&topology));
  EXPECT_EQ(stuck->waiting(), kMaxTopologyCalls);
  EXPECT_OK(world.Run(topology.Close()));  // waits for all of them
  EXPECT_EQ(topology.metrics().calls_in_progress.value(), 0);
  EXPECT_EQ(world.Run(topology.Read("node/1", kTimeout)).code(), Code::kAborted);
}

Task<void> ReadAcrossASwap(Topology* t, Result<TopologyEntry>* read) { *read = co_await t->Read("node/1", kSecond); }
Task<void> SlowReadMeetsSwap(Topology* t, SimTopology* store) {
  Result<CasOutcome> first = co_await t->CompareAndSwap("node/1", 0, "1", kSecond);
  store->faults().latency_min_ns = store->faults().latency_max_ns = 100 * kMillisecond;
  Result<TopologyEntry> read = Error(Code::kAborted, "not yet");
  Together together;
  together.Add(ReadAcrossASwap(t, &read));
  co_await Sleep(t->reactor(), 150 * kMillisecond);  // the read has its answer, which travels
  store->faults().latency_min_ns = store->faults().latency_max_ns = kMicrosecond;
  Result<CasOutcome> second = co_await t->CompareAndSwap("node/1", first->revision, "2", kSecond);
  EXPECT_EQ(second->kind, Kind::kStored);
  co_await together.Wait();
  EXPECT_OK(read.status());
  EXPECT_EQ(read->value, "1");
}
// TC2: an answer is compared with what was known when its call began.
TEST(TopologyTest, AnAnswerThatWasOvertakenIsNoStepBack) {
  World world(4);
  auto topology = world.Client();
  world.Run(SlowReadMeetsSwap(topology.get(), world.stores[0]));
  EXPECT_OK(topology->went_back());
  EXPECT_OK(world.Run(topology->Close()));
}

// -- watching

Task<void> Churn(Topology* t, NodeId id, int changes) {
  for (int done = 0; done < changes;) {
    Result<TopologyEntry> now = co_await t->Read(NodeKey(id), kTimeout);
    if (!now.ok()) continue;
    const std::string value = fmt::format("{}-{}", id, now->revision);
    Result<CasOutcome> outcome = co_await t->CompareAndSwap(NodeKey(id), now->revision, value, kTimeout);
    done += outcome.ok() && outcome->kind == Kind::kStored;
    co_await Sleep(t->reactor(), static_cast<Nanos>(t->reactor().Random() % (20 * kMillisecond)));
  }
}
Task<void> Cut(Reactor* reactor, SimTopology* store, int times) {
  for (int i = 0; i < times; ++i) {
    co_await Sleep(*reactor, static_cast<Nanos>(reactor->Random() % (500 * kMillisecond)));
    store->faults().unreachable = true;
    co_await Sleep(*reactor, static_cast<Nanos>(reactor->Random() % kSecond));
    store->faults().unreachable = false;
  }
}
Task<void> WatchThroughFaults(Topology* watched, SimTopology* store, std::vector<Topology*> writers,
                              const SimTopologyServer* server) {
  TopologyWatch watch(watched);
  Together together;
  for (size_t i = 0; i < writers.size(); ++i) together.Add(Churn(writers[i], static_cast<NodeId>(i + 1), 50));
  together.Add(Cut(&watched->reactor(), store, 4));
  std::map<std::string, TopologyEntry> seen;
  Reactor& reactor = watched->reactor();
  const Nanos limit = reactor.NowNs() + 120 * kSecond;
  while (together.running() > 0 || seen != server->entries()) {
    EXPECT_LT(reactor.NowNs(), limit) << "the last state was lost: " << watch.status().ToString();
    if (reactor.NowNs() >= limit) break;
    Result<std::vector<TopologyEntry>> news = co_await watch.Next(100 * kMillisecond);
    if (!news.ok()) continue;
    for (TopologyEntry& entry : *news) {
      EXPECT_GT(entry.revision, seen[entry.key].revision);  // TW1
      seen[entry.key] = entry;
    }
  }
  co_await together.Wait();
  EXPECT_EQ(watch.newest(), server->entries());
  watched->EndWaits();
  co_await watch.Stop();
}
// TW1, TW2: gaps, repetitions, errors, unknown outcomes, and a store that cannot be reached.
TEST(TopologyTest, AWatchSurvivesEveryFault) {
  uint64_t gaps = 0;
  for (const uint64_t seed : Seeds(20)) {
    SCOPED_TRACE(Replay(seed));
    World world(seed);
    world.server.kept_changes = 5;
    SimTopologyFaults faults;
    faults.gap_probability = 0.05;
    faults.repeat_probability = 0.3;
    faults.lose_probability = 0.3;
    faults.error_probability = 0.1;
    faults.unknown_probability = 0.1;
    faults.late_ns = 100 * kMillisecond;
    auto a = world.Client(faults), b = world.Client(faults), c = world.Client(faults);
    world.Run(WatchThroughFaults(a.get(), world.stores[0], {b.get(), c.get()}, &world.server));
    EXPECT_OK(a->went_back());
    gaps += a->metrics().errors.value();
    for (auto* client : {&a, &b, &c}) EXPECT_OK(world.Run((*client)->Close()));
  }
  EXPECT_GT(gaps, 20u);
}

Task<void> NobodyTakes(Topology* watched, Topology* writer) {
  TopologyWatch watch(watched);
  Revision revision = 0;
  for (int i = 0; i < 500; ++i) {
    Result<CasOutcome> outcome = co_await writer->CompareAndSwap("node/1", revision, std::to_string(i), kSecond);
    revision = outcome->revision;
  }
  co_await Sleep(watched->reactor(), 3 * kSecond);
  EXPECT_EQ(watch.newest().size(), 1u);
  Result<std::vector<TopologyEntry>> news = co_await watch.Next(kSecond);
  EXPECT_OK(news.status());
  EXPECT_EQ(news->size(), 1u);
  EXPECT_EQ(news->front().value, "499");
  EXPECT_EQ((co_await watch.Next(3 * kSecond)).code(), Code::kDeadline);  // listing again is no news
  watched->EndWaits();
  co_await watch.Stop();
  EXPECT_EQ((co_await watch.Next(kSecond)).code(), Code::kAborted);
}
// TW3
TEST(TopologyTest, AWatchKeepsOneStateOfEachKey) {
  World world(5);
  auto a = world.Client(), b = world.Client();
  world.Run(NobodyTakes(a.get(), b.get()));
  EXPECT_OK(world.Run(a->Close()));
  EXPECT_OK(world.Run(b->Close()));
}

// Waits that lose a change, and tell of a later one.
Task<void> Lose(Topology* watched, SimTopology* store, Topology* writer) {
  TopologyWatch watch(watched);
  Reactor& reactor = watched->reactor();
  std::map<std::string, Revision> revisions;
  for (const char* key : {"node/1", "node/2", "node/3"}) {
    Result<CasOutcome> outcome = co_await writer->CompareAndSwap(key, 0, "0", kSecond);
    revisions[key] = outcome->revision;
  }
  co_await Sleep(reactor, 3 * kSecond);
  EXPECT_EQ(watch.newest().size(), 3u);
  const size_t lists = store->lists();
  for (int i = 1; i <= 20; ++i) {
    const std::string value = std::to_string(i);
    store->faults().lose_probability = 1;
    Result<CasOutcome> lost = co_await writer->CompareAndSwap("node/1", revisions["node/1"], value, kSecond);
    const Nanos lost_ns = reactor.NowNs();
    co_await Sleep(reactor, static_cast<Nanos>(reactor.Random() % (300 * kMillisecond)) + 10 * kMillisecond);
    // Of a later one it is told.
    store->faults().lose_probability = 0;
    Result<CasOutcome> told = co_await writer->CompareAndSwap("node/2", revisions["node/2"], value, kSecond);
    co_await Sleep(reactor, 20 * kMillisecond);
    EXPECT_EQ(watch.newest().at("node/2").value, value);
    while (watch.newest().at("node/1").value != value && reactor.NowNs() < lost_ns + 10 * kSecond) {
      co_await Sleep(reactor, 10 * kMillisecond);
    }
    EXPECT_LE(reactor.NowNs() - lost_ns, TopologyWatch::kCheckNs + 50 * kMillisecond) << i;
    revisions = {{"node/1", lost->revision}, {"node/2", told->revision}};
  }
  EXPECT_EQ(store->lists(), lists) << "it was found without a listing";
  // What it was told of without a hole is not read again.
  const size_t read = store->read_changes();
  for (int i = 0; i < 50; ++i) {
    Result<CasOutcome> told = co_await writer->CompareAndSwap("node/1", revisions["node/1"], "again", kSecond);
    revisions["node/1"] = told->revision;
    co_await Sleep(reactor, 100 * kMillisecond);
  }
  EXPECT_LE(store->read_changes() - read, 3u);
  // Once in a while it lists.
  co_await Sleep(reactor, 2 * TopologyWatch::kListNs);
  EXPECT_GE(store->lists(), lists + 1);
  EXPECT_LE(store->lists(), lists + 5);
  EXPECT_GT(watch.checked_ns(), reactor.NowNs() - 3 * kSecond);
  watched->EndWaits();
  co_await watch.Stop();
}
TEST(TopologyTest, AWatchFindsWhatWaitsHaveLost) {
  World world(7);
  auto a = world.Client(), b = world.Client();
  world.Run(Lose(a.get(), world.stores[0], b.get()));
  EXPECT_OK(world.Run(a->Close()));
  EXPECT_OK(world.Run(b->Close()));
}

// A place that answers listings and no waits, as behind a proxy that passes no streams on.
Task<void> WatchWithoutWaits(Topology* watched) {
  TopologyWatch watch(watched);
  const uint64_t before = watched->metrics().calls.value();
  co_await Sleep(watched->reactor(), 20 * kSecond);
  EXPECT_LT(watched->metrics().calls.value() - before, 100u);
  EXPECT_FALSE(watch.status().ok());
  EXPECT_GT(watch.checked_ns(), watched->reactor().NowNs() - 3 * kSecond);
  watched->EndWaits();
  co_await watch.Stop();
}

TEST(TopologyTest, AWatchIsPatientWithAPlaceThatEndsWaits) {
  World world(1);
  SimTopologyFaults faults;
  faults.wait_error_probability = 1;
  std::unique_ptr<Topology> topology = world.Client(faults);
  world.Run(WatchWithoutWaits(topology.get()));
  EXPECT_OK(world.Run(topology->Close()));
}

Task<void> Overfill(Topology* watched, Topology* writer) {
  const std::string big(kMaxTopologyValueBytes, 'x');
  const size_t most = kMaxTopologyBytes / kMaxTopologyValueBytes;
  TopologyWatch watch(watched);
  for (size_t i = 0; i <= most; ++i) {
    std::string value = big;
    (void)co_await writer->CompareAndSwap(fmt::format("x/{}", i), 0, std::move(value), kSecond);
  }
  co_await Sleep(watched->reactor(), 5 * kSecond);
  EXPECT_EQ(watch.status().code(), Code::kCorruption);
  EXPECT_THAT(watch.status().message(), HasSubstr("holds more than"));
  size_t bytes = 0;
  for (const auto& [key, entry] : watch.newest()) bytes += key.size() + entry.value.size();
  EXPECT_LE(bytes, kMaxTopologyBytes);
  EXPECT_GT(bytes, kMaxTopologyBytes / 2);
  watched->EndWaits();
  co_await watch.Stop();
}
TEST(TopologyTest, AWatchRefusesTooMuch) {
  World world(6);
  auto a = world.Client(), b = world.Client();
  world.Run(Overfill(a.get(), b.get()));
  EXPECT_OK(world.Run(a->Close()));
  EXPECT_OK(world.Run(b->Close()));
}

// -- start counters

// The life of a node whose process may die after any step, and whose disk is sometimes put back.
struct Disk {
  uint64_t stored = 0;  // the start counter in the directory
  uint64_t served = 0;  // what was written while it served; a stand-in for data
};

Task<Status> Finish(Topology* t, uint64_t start, Nanos timeout_ns) {
  return FinishStart(*t, 1, start, kClientAddress, {kPeerAddress}, timeout_ns);
}

// Starts, and stops after `steps` steps. Returns what it judged.
Task<DirectoryHistory> StartNode(Topology* t, Disk* disk, int steps) {
  Result<TopologyEntry> entry = Error(Code::kUnavailable, "not yet");
  while (!entry.ok()) entry = co_await t->Read(NodeKey(1), kTimeout);
  const DirectoryHistory history = JudgeDirectory(disk->stored, *DecodeNode(*entry));
  if (history != DirectoryHistory::kContinued || steps == 0) co_return history;
  Result<uint64_t> start = co_await RaiseStarts(*t, 1, 60 * kSecond);
  EXPECT_OK(start.status());
  if (steps == 1) co_return history;
  disk->stored = *start;
  if (steps == 2) co_return history;
  EXPECT_OK(co_await Finish(t, *start, 60 * kSecond));
  if (steps == 3) co_return history;
  ++disk->served;
  co_return history;
}

TEST(TopologyTest, StartCountersFindRestoredDisks) {
  int restored = 0, continued = 0, images = 0;
  for (const uint64_t seed : Seeds(30)) {
    SCOPED_TRACE(Replay(seed));
    World world(seed);
    SimTopologyFaults faults;
    faults.unknown_probability = 0.2;
    faults.error_probability = 0.1;
    auto topology = world.Client(faults);
    for (bool created = false; !created;) {
      Result<CasOutcome> outcome = world.Run(topology->CompareAndSwap(NodeKey(1), 0, *Encode(NewNode(1)), kTimeout));
      created = outcome.ok() && outcome->kind != Kind::kUnknown;
    }
    SimRandom random(seed);
    Disk disk;
    std::vector<Disk> kept = {Disk()};
    for (int i = 0; i < 15; ++i) {
      if (random.Chance(0.3)) kept.push_back(disk);
      const Disk before = disk;
      const bool put_back = random.Chance(0.2);
      if (put_back) disk = kept[random.Below(kept.size())];
      const DirectoryHistory history = world.Run(StartNode(topology.get(), &disk, static_cast<int>(random.Below(6))));
      EXPECT_NE(history, DirectoryHistory::kTopologyWentBack);
      images += put_back;
      if (history == DirectoryHistory::kRestored) {
        ++restored;
        EXPECT_TRUE(put_back) << "a crash looks like an old image";
        disk = before;  // the operator brings the right one
      } else if (put_back) {
        // NS2: it lacks nothing that the node has had when it served.
        EXPECT_GE(disk.served, before.served);
        ++continued;
      }
    }
    EXPECT_OK(world.Run(topology->Close()));
  }
  EXPECT_GT(restored, 20);
  EXPECT_GT(continued, 5);
  EXPECT_EQ(JudgeDirectory(4,
                           [] {
                             NodeRecord r;
                             r.starts = 3;
                             return r;
                           }()),
            DirectoryHistory::kTopologyWentBack);
}

TEST(TopologyTest, ShowsItsMetrics) {
  World world(9);
  auto topology = world.Client();
  Registry registry;
  RegisterTopologyMetrics(&registry, *topology);
  EXPECT_EQ(world.Run(topology->CompareAndSwap("a", 0, "value", kTimeout))->kind, Kind::kStored);
  EXPECT_EQ(world.Run(topology->CompareAndSwap("a", 0, "value", kTimeout))->kind, Kind::kConflict);
  EXPECT_OK(world.Run(topology->List(kTimeout)).status());
  const std::string page = registry.Render();
  for (const char* line :
       {"kv_topology_calls_total 3\n", "kv_topology_changes_stored_total 1\n", "kv_topology_changes_refused_total 1\n",
        "kv_topology_changes_unknown_total 0\n", "kv_topology_errors_total 0\n", "kv_topology_went_back_total 0\n",
        "kv_topology_calls_in_progress_count 0\n", "kv_topology_keys_count 1\n", "kv_topology_bytes 6\n"}) {
    EXPECT_THAT(page, HasSubstr(line));
  }
  registry.Remove(topology.get());
  EXPECT_EQ(registry.Render(), "");
  EXPECT_OK(world.Run(topology->Close()));
}

TEST(TopologyTest, TwoProcessesOfOneNode) {
  World world(8);
  auto a = world.Client(), b = world.Client();
  EXPECT_EQ(world.Run(RaiseStarts(*a, 1, kSecond)).code(), Code::kNotFound);
  EXPECT_EQ(world.Run(a->CompareAndSwap(NodeKey(1), 0, *Encode(NewNode(1)), kTimeout))->kind, Kind::kStored);
  EXPECT_EQ(*world.Run(RaiseStarts(*a, 1, kSecond)), 1u);
  EXPECT_EQ(*world.Run(RaiseStarts(*b, 1, kSecond)), 2u);
  Status opened = world.Run(Finish(a.get(), 1, kSecond));
  EXPECT_EQ(opened.code(), Code::kAborted);
  EXPECT_THAT(opened.message(), HasSubstr("Do two processes run as the same node?"));
  EXPECT_OK(world.Run(Finish(b.get(), 2, kSecond)));
  world.stores[0]->faults().unreachable = true;
  EXPECT_EQ(world.Run(RaiseStarts(*a, 1, kSecond)).code(), Code::kUnavailable);
  EXPECT_OK(world.Run(a->Close()));
  EXPECT_OK(world.Run(b->Close()));
}

}  // namespace
}  // namespace pando::topology_test
