// The directory store: its files, what it does when the disk fails, and processes that are killed.
#include "src/topology/file_topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>

#include "src/topology/cluster_map.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 5 * kSecond;
const std::string kKey = "partition/00003";

std::string PathOf(Revision revision) { return "/topology/" + FileTopology::FileName(kKey, revision); }

class FileTopologyTest : public ::testing::Test {
 protected:
  FileTopologyTest() : machine_(kernel_.AddMachine()) {
    disk().WriteAll("/topology/.keep", "");
    machine_->Boot();
    topology_ = Open();
  }
  ~FileTopologyTest() override {
    if (topology_) EXPECT_OK(Run(topology_->Close()));
  }
  Reactor& reactor() { return *machine_->reactor(); }
  SimDisk& disk() { return machine_->disk(); }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  std::unique_ptr<Topology> Open() {
    auto store = Run(FileTopology::Open(reactor(), "/topology"));
    CHECK(store.ok()) << store.status().ToString();
    return std::make_unique<Topology>(reactor(), *std::move(store));
  }
  void Put(Revision revision, const std::string& value) {
    disk().WriteAll(PathOf(revision), FileTopology::FileContents(kKey, revision, value));
  }
  Result<CasOutcome> Swap(Revision expected, const std::string& value) {
    return Run(topology_->CompareAndSwap(kKey, expected, value, kTimeout));
  }
  Result<TopologyEntry> Read() { return Run(topology_->Read(kKey, kTimeout)); }
  std::vector<std::string> Names() { return *disk().List("/topology"); }

  SimKernel kernel_{9};
  SimMachine* machine_;
  std::unique_ptr<Topology> topology_;
};

TEST_F(FileTopologyTest, GoldenFiles) {
  EXPECT_EQ(Swap(0, "{}")->revision, 1u);
  EXPECT_EQ(Swap(1, "{\"a\":1}")->revision, 2u);
  EXPECT_THAT(Names(), ElementsAre(".keep", "newest", "partition.00003.000000000001", "partition.00003.000000000002"));
  EXPECT_EQ(disk().ReadAll(PathOf(1)), "pando-topology 1 b0cd19b191aeea16\n{}");
  EXPECT_EQ(disk().ReadAll("/topology/newest"), disk().ReadAll(PathOf(2)));
}

// What the first version has written is still read, and means the same.
Task<void> ReadFixture(Reactor* reactor) {
  Result<std::unique_ptr<TopologyStore>> store =
      co_await FileTopology::Open(*reactor, std::string(PANDO_FIXTURE_DIR) + "/topology-format-1");
  CHECK(store.ok()) << store.status().ToString();
  Result<TopologyListing> listing = co_await (*store)->List(reactor->NowNs() + kTimeout);
  EXPECT_OK(listing.status());
  ClusterMap map;
  for (const TopologyEntry& entry : listing->entries) EXPECT_OK(map.Apply(entry));
  EXPECT_THAT(map.Problems(), ElementsAre());
  EXPECT_EQ(listing->revision, 4u);
  EXPECT_EQ(map.nodes.at(7).record.starts, 1u);
  EXPECT_EQ(map.nodes.at(7).revision, 2u);
  EXPECT_OK(co_await (*store)->Close());
}
TEST(FileTopologyFixture, IsRead) {
  auto reactor = MakeUringReactor({});
  ASSERT_TRUE(reactor.ok());
  RunBlocking(**reactor, ReadFixture(reactor->get()));
}

// What a listing and the cache hold is reserved before they grow, and given back.
TEST_F(FileTopologyTest, ListingsReserveMemory) {
  const std::string value(1000, 'v');
  for (int i = 0; i < 8; ++i) {
    EXPECT_OK(Run(topology_->CompareAndSwap(NodeKey(static_cast<NodeId>(i + 1)), 0, value, kTimeout)).status());
  }
  for (const bool enough : {true, false}) {
    MemoryBudget budget(enough ? 40'000 : 15'000);
    {
      BudgetAccount account(&budget);
      Topology topology(reactor(), *Run(FileTopology::Open(reactor(), "/topology")), &account);
      for (int i = 0; i < 3; ++i) {
        Result<TopologyListing> listing = Run(topology.List(kTimeout));
        if (!enough) {
          EXPECT_EQ(listing.code(), Code::kOverloaded);
          EXPECT_THAT(listing.status().message(), HasSubstr("no memory to list the topology"));
          EXPECT_EQ(account.in_use_bytes(), 0);
          EXPECT_TRUE(Run(topology.Read(NodeKey(1), kTimeout))->value.starts_with(value));  // without the cache
          continue;
        }
        ASSERT_TRUE(listing.ok()) << listing.status().ToString();
        EXPECT_GE(listing->memory.bytes(), 8u * 1000);
        EXPECT_EQ(account.in_use_bytes(), 2 * static_cast<int64_t>(listing->memory.bytes()));  // and the cache
        // A longer value of one key, again and again, takes its place.
        for (int k = 0; k < 5; ++k) {
          const TopologyEntry now = *Run(topology.Read(NodeKey(1), kTimeout));
          EXPECT_OK(Run(topology.CompareAndSwap(NodeKey(1), now.revision, now.value + "v", kTimeout)).status());
        }
        EXPECT_EQ(account.in_use_bytes(), 2 * static_cast<int64_t>(listing->memory.bytes()) + 5);
      }
      EXPECT_OK(Run(topology.Close()));
    }
    EXPECT_EQ(budget.used_bytes(), 0);
  }
}

Task<void> SwapOne(Topology* topology, NodeId node, Revision expected, int* stored) {
  Result<CasOutcome> outcome = co_await topology->CompareAndSwap(NodeKey(node), expected, "{}", kTimeout);
  *stored += outcome.ok() && outcome->kind == Kind::kStored;
}
Task<void> SwapMany(Topology* topology, NodeId keys, Revision expected, int* stored) {
  Together together;
  for (NodeId node = 1; node <= keys; ++node) together.Add(SwapOne(topology, node, expected, stored));
  co_await together.Wait();
}

// TF4. When a node hands over all that it leads, nobody waits for the changes of other partitions.
TEST_F(FileTopologyTest, ChangesDoNotWaitForEachOther) {
  machine_->SetDiskLatency(4 * kMillisecond, 4 * kMillisecond);
  const auto time_of = [&](NodeId keys, Revision expected) {
    const Nanos began_ns = kernel_.now_ns();
    int stored = 0;
    Run(SwapMany(topology_.get(), keys, expected, &stored));
    EXPECT_EQ(stored, keys);
    return kernel_.now_ns() - began_ns;
  };
  const Nanos one_ns = time_of(1, 0);
  EXPECT_LT(time_of(1, 1), 2 * one_ns);
  EXPECT_OK(Swap(0, "{}").status());
  for (NodeId node = 2; node <= 16; ++node) {
    EXPECT_OK(Run(topology_->CompareAndSwap(NodeKey(node), 0, "{}", kTimeout)).status());
    EXPECT_OK(Run(topology_->CompareAndSwap(NodeKey(node), 1, "{}", kTimeout)).status());
  }
  EXPECT_LT(time_of(16, 2), 2 * one_ns);
}

Task<void> WaitFor(Together* together) { co_await together->Wait(); }

// TF4. A call that has begun with a directory that is replaced meanwhile ends with it, and it is closed.
TEST_F(FileTopologyTest, IsReplacedDuringCalls) {
  EXPECT_OK(Swap(0, "{}").status());
  machine_->SetDiskLatency(4 * kMillisecond, 4 * kMillisecond);
  int stored = 0;
  Together together;
  for (NodeId node = 1; node <= 8; ++node) together.Add(SwapOne(topology_.get(), node, 0, &stored));
  disk().MoveDirectory("/topology", "/topology.old");
  disk().WriteAll("/topology/.keep", "");
  Put(9, "{}");
  EXPECT_EQ(Read()->revision, 9u);
  Run(WaitFor(&together));
  EXPECT_EQ(stored, 0);
  EXPECT_THAT(Names(), ElementsAre(".keep", FileTopology::FileName(kKey, 9)));
}

TEST_F(FileTopologyTest, KeepsTheLastRevisions) {
  for (Revision revision = 0; revision < 50; ++revision) EXPECT_EQ(Swap(revision, "x")->revision, revision + 1);
  EXPECT_EQ(Names().size(), 2 + FileTopology::kKeptVersions);
  EXPECT_FALSE(disk().Exists(PathOf(34)));
  EXPECT_TRUE(disk().Exists(PathOf(35)));
  EXPECT_TRUE(disk().Exists(PathOf(50)));
  EXPECT_EQ(Read()->revision, 50u);
}

Task<void> SwapInto(Topology* t, Revision expected, std::optional<Result<CasOutcome>>* outcome) {
  outcome->emplace(co_await t->CompareAndSwap(kKey, expected, "late", kTimeout));
}

// TF2: while a change waits for the disk, others go on. The name of its revision is free again after
// they have removed it.
TEST_F(FileTopologyTest, ALateChangeNeverCountsAsStored) {
  struct Case {
    Revision oldest, newest;
    Kind kind;
  };
  for (const Case& c : {Case{5, 5, Kind::kConflict}, Case{5, 20, Kind::kConflict}, Case{6, 21, Kind::kUnknown},
                        Case{90, 105, Kind::kUnknown}}) {
    SCOPED_TRACE(c.newest);
    disk().RemoveTree("/topology");
    disk().WriteAll("/topology/.keep", "");
    EXPECT_OK(Run(topology_->Close()));
    topology_ = Open();
    for (Revision revision = 1; revision <= 4; ++revision) Put(revision, "before");
    std::optional<Result<CasOutcome>> outcome;
    TaskGroup group;
    group.Spawn(SwapInto(topology_.get(), 4, &outcome));  // has listed the directory; now it writes
    ASSERT_EQ(group.running(), 1u);
    kernel_.RunFor(kMicrosecond);
    for (Revision revision = 1; revision <= 4; ++revision) {
      if (revision < c.oldest && c.newest >= revision + FileTopology::kKeptVersions)
        disk().RemoveTree(PathOf(revision));
    }
    for (Revision revision = c.oldest; revision <= c.newest; ++revision) Put(revision, "others");
    kernel_.RunUntil([&] { return outcome.has_value(); });
    ASSERT_TRUE((*outcome).ok()) << outcome->status().ToString();
    EXPECT_EQ((*outcome)->kind, c.kind);
    EXPECT_EQ(Read()->value, "others");
    EXPECT_EQ(Read()->revision, c.newest);
  }
}

TEST_F(FileTopologyTest, RemovesStaleTemporaries) {
  disk().WriteAll("/topology/tmp-00000000000000ff", "half");
  disk().WriteAll("/topology/notes.txt", "of an operator");
  EXPECT_OK(Run(topology_->List(kTimeout)).status());
  kernel_.RunFor(FileTopology::kTemporaryAgeNs / 2);
  disk().WriteAll("/topology/tmp-00000000000000ee", "a younger one");
  EXPECT_OK(Run(topology_->List(kTimeout)).status());
  EXPECT_TRUE(disk().Exists("/topology/tmp-00000000000000ff"));
  kernel_.RunFor(FileTopology::kTemporaryAgeNs / 2 + kSecond);
  EXPECT_OK(Run(topology_->List(kTimeout)).status());
  EXPECT_FALSE(disk().Exists("/topology/tmp-00000000000000ff"));
  EXPECT_TRUE(disk().Exists("/topology/tmp-00000000000000ee"));
  EXPECT_TRUE(disk().Exists("/topology/notes.txt"));
}

TEST_F(FileTopologyTest, NoticesDamage) {
  EXPECT_EQ(Swap(0, "value")->kind, Kind::kStored);
  auto other = Open();
  disk().FlipBit(PathOf(1), 36);
  Result<TopologyEntry> entry = Run(other->Read(kKey, kTimeout));
  EXPECT_EQ(entry.code(), Code::kCorruption);
  EXPECT_THAT(entry.status().message(), HasSubstr(PathOf(1) + " is damaged"));
  EXPECT_EQ(Run(other->List(kTimeout)).code(), Code::kCorruption);
  // A copy under the name of another revision is not that revision.
  disk().FlipBit(PathOf(1), 36);
  disk().WriteAll(PathOf(2), disk().ReadAll(PathOf(1)));
  EXPECT_EQ(Run(other->Read(kKey, kTimeout)).code(), Code::kCorruption);
  for (const std::string& contents : {std::string(), std::string("pando"), std::string(100'000, 'x')}) {
    disk().WriteAll(PathOf(2), contents);
    EXPECT_EQ(Run(other->Read(kKey, kTimeout)).code(), Code::kCorruption);
  }
  EXPECT_OK(Run(other->Close()));
}

TEST_F(FileTopologyTest, TheDirectoryMustExist) {
  Result<std::unique_ptr<TopologyStore>> none = Run(FileTopology::Open(reactor(), "/nowhere"));
  EXPECT_EQ(none.code(), Code::kNotFound);
  EXPECT_THAT(none.status().message(), HasSubstr("/nowhere"));
  EXPECT_THAT(none.status().message(), HasSubstr("or correct --topology"));
  EXPECT_THAT(none.status().message(),
              HasSubstr("Create it, with access for every process of the cluster, only for a"));
  EXPECT_EQ(Swap(0, "value")->kind, Kind::kStored);
  EXPECT_OK(Run(topology_->List(kTimeout)).status());
  disk().MoveDirectory("/topology", "/elsewhere");
  EXPECT_EQ(Read().code(), Code::kNotFound);
  EXPECT_THAT(Read().status().message(), HasSubstr("Bring it back as it was"));
  EXPECT_THAT(Read().status().message(), Not(HasSubstr("Create it"))) << "which would lose the map of the cluster";
  EXPECT_EQ(Swap(1, "value").code(), Code::kNotFound);
  EXPECT_EQ(Run(topology_->WaitForChange(1, kTimeout)).code(), Code::kNotFound);
  disk().MoveDirectory("/elsewhere", "/topology");
  EXPECT_EQ(Read()->value, "value");
}

// Whatever fails, an error means that nothing was written (TS4).
TEST_F(FileTopologyTest, DiskFaults) {
  const struct {
    IoOp::Kind kind;
    const char* path;
    std::optional<Kind> outcome;  // nullopt: an error
  } kFaults[] = {
      {IoOp::Kind::kOpen, "/tmp-", std::nullopt},    {IoOp::Kind::kWrite, "/tmp-", std::nullopt},
      {IoOp::Kind::kSync, "/tmp-", std::nullopt},    {IoOp::Kind::kClose, "/tmp-", std::nullopt},
      {IoOp::Kind::kLink, "/tmp-", Kind::kUnknown},  {IoOp::Kind::kSync, "/topology", Kind::kUnknown},
      {IoOp::Kind::kRename, "/tmp-", Kind::kStored}, {IoOp::Kind::kUnlink, "/partition", Kind::kStored},
  };
  Revision revision = 0;
  for (; revision < 20; ++revision) EXPECT_EQ(Swap(revision, "start")->kind, Kind::kStored);
  int round = 0;
  for (const auto& f : kFaults) {
    SCOPED_TRACE(++round);
    DiskFault fault;
    fault.kind = f.kind;
    fault.path_contains = f.path;
    fault.skip = f.kind == IoOp::Kind::kSync && std::string(f.path) == "/topology" ? 1 : 0;  // first, the file's
    const uint64_t struck = machine_->faults_struck();
    machine_->AddFault(fault);
    const std::string value = fmt::format("round {}", round);
    Result<CasOutcome> outcome = Swap(revision, value);
    EXPECT_EQ(machine_->faults_struck(), struck + 1);
    machine_->ClearFaults();
    Result<TopologyEntry> now = Read();
    ASSERT_TRUE(now.ok()) << now.status().ToString();
    if (!f.outcome) {
      EXPECT_FALSE(outcome.ok());
      EXPECT_THAT(outcome.status().message(), HasSubstr("the right to write to this directory"));
      EXPECT_EQ(now->revision, revision);
    } else {
      ASSERT_TRUE(outcome.ok()) << outcome.status().ToString();
      EXPECT_EQ(outcome->kind, *f.outcome);
      if (outcome->kind == Kind::kStored) {
        EXPECT_EQ(now->value, value);
      }
    }
    revision = now->revision;
    EXPECT_THAT(Names(), Not(Contains(HasSubstr("tmp-"))));
  }
  machine_->FillDisk();
  EXPECT_EQ(Swap(revision, "full").code(), Code::kDiskFull);
  machine_->EmptyDisk();
  EXPECT_EQ(Swap(revision, "room")->kind, Kind::kStored);
}

// TC1, with a disk that hangs.
TEST_F(FileTopologyTest, AHangingDisk) {
  Put(1, "{}");
  machine_->HangDisk(SimMachine::DiskHang::kSyncs);
  const Nanos begin = kernel_.now_ns();
  Result<CasOutcome> outcome = Run(topology_->CompareAndSwap(kKey, 1, "value", kSecond));
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->kind, Kind::kUnknown);
  EXPECT_EQ(Run(topology_->Read(kKey, kSecond)).code(), Code::kDeadline);
  EXPECT_LT(kernel_.now_ns() - begin, 3 * kSecond);
  machine_->ReleaseDisk();
  kernel_.RunFor(kSecond);
  Result<TopologyEntry> now = Read();
  ASSERT_TRUE(now.ok()) << now.status().ToString();
  EXPECT_EQ(now->revision, 1u) << "a change was begun after its deadline";
}

// -- processes that are killed

// Counts up for ever, and reports each revision that it has stored.
Task<void> CountForever(Reactor* reactor, std::string directory, int report) {
  Result<std::unique_ptr<TopologyStore>> store = co_await FileTopology::Open(*reactor, directory);
  CHECK(store.ok()) << store.status().ToString();
  for (;;) {
    Result<TopologyEntry> now = co_await (*store)->Read(kKey, reactor->NowNs() + kTimeout);
    CHECK(now.ok()) << now.status().ToString();
    const uint64_t count = now->revision == 0 ? 0 : std::stoul(now->value);
    CHECK_EQ(count, now->revision);
    Result<CasOutcome> outcome =
        co_await (*store)->CompareAndSwap(kKey, now->revision, std::to_string(count + 1), reactor->NowNs() + kTimeout);
    // Its temporary file is not old enough to be removed by others.
    CHECK(outcome.ok()) << outcome.status().ToString();
    if (outcome->kind != Kind::kStored) continue;
    CHECK_EQ(write(report, &outcome->revision, sizeof outcome->revision), ssize_t{sizeof outcome->revision});
  }
}

struct Child {
  pid_t pid = -1;
  int report = -1;
};

Child StartChild(const std::string& directory) {
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  CHECK_GE(pid, 0);
  if (pid == 0) {
    close(ends[0]);
    auto reactor = MakeUringReactor({});
    CHECK(reactor.ok());
    RunBlocking(**reactor, CountForever(reactor->get(), directory, ends[1]));
    _exit(0);
  }
  close(ends[1]);
  return {pid, ends[0]};
}

// Kills it, and returns what it has reported.
void EndChild(Child* child, std::set<Revision>* stored) {
  kill(child->pid, SIGKILL);
  int status = 0;
  waitpid(child->pid, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "a process ended by itself: " << status;
  Revision revision = 0;
  while (read(child->report, &revision, sizeof revision) == sizeof revision) {
    EXPECT_TRUE(stored->insert(revision).second) << "two processes have stored revision " << revision;
  }
  close(child->report);
}

TEST(FileTopologyProcesses, AreKilledAtAnyTime) {
  FileWorld world;
  auto store = RunBlocking(world.reactor(), world.Open());
  ASSERT_TRUE(store.ok());
  const std::string directory = (*store)->name().substr(5);
  constexpr int kProcesses = 3, kKills = 25;
  SimRandom random(getpid());
  std::set<Revision> stored;
  std::vector<Child> children;
  for (int i = 0; i < kProcesses; ++i) children.push_back(StartChild(directory));
  for (int i = 0; i < kKills; ++i) {
    poll(nullptr, 0, static_cast<int>(40 + random.Below(120)));
    Child& victim = children[random.Below(kProcesses)];
    EndChild(&victim, &stored);
    victim = StartChild(directory);
  }
  for (Child& child : children) EndChild(&child, &stored);
  Result<TopologyEntry> now = RunBlocking(world.reactor(), (*store)->Read(kKey, world.reactor().NowNs() + kTimeout));
  ASSERT_TRUE(now.ok()) << now.status().ToString();
  EXPECT_EQ(now->value, std::to_string(now->revision));
  ASSERT_FALSE(stored.empty());
  EXPECT_LE(*stored.rbegin(), now->revision) << "a stored revision was lost";
  // What was stored and not reported: at most one for each process that was killed.
  EXPECT_LE(now->revision - stored.size(), size_t{kKills + kProcesses});
  EXPECT_GT(stored.size(), 50u);
  EXPECT_OK(RunBlocking(world.reactor(), (*store)->Close()));
}

}  // namespace
}  // namespace pando::topology_test
