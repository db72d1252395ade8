// What a node's directory knows about its cluster, and what it refuses.
// tests/crash/node_start_crash_test.cc stops the machine in the middle.
#include "src/topology/node_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/sim_kernel.h"
#include "tests/support/sim_topology.h"
#include "tests/unit/io/reactor_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Nanos kTimeout = 3 * kSecond;
constexpr char kPath[] = "/data/cluster";
const Uuid kCluster = *Uuid::Parse("0f0e0d0c-0b0a-4908-8706-050403020100");
const NodeIdentity kIdentity = {kCluster, 7, 12, 345, 6, true};

TEST(NodeIdentity, GoldenBytes) {
  std::string hex;
  for (const unsigned char c : EncodeIdentity(kIdentity)) hex += fmt::format("{:02x}", c);
  EXPECT_EQ(hex,
            "50414e444f434c55"  // PANDOCLU
            "0100"
            "0100"
            "07000000"  // format, flags, node
            "08490a0b0c0d0e0f"
            "0001020304050687"  // cluster ID
            "0c00000000000000"  // start
            "5901000000000000"  // seen
            "0600000000000000"  // epoch
            "14838d8a64a86399");
  EXPECT_EQ(*DecodeIdentity(EncodeIdentity(kIdentity), kPath), kIdentity);
}

TEST(NodeIdentity, RefusesDamage) {
  const std::string good = EncodeIdentity(kIdentity);
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    const Status status = DecodeIdentity(bad, kPath).status();
    const bool format = bit / 8 == 8 || bit / 8 == 9;  // may pass for a newer one
    EXPECT_TRUE(status.code() == Code::kCorruption || (format && status.code() == Code::kVersion)) << bit;
    EXPECT_THAT(status.message(), HasSubstr(kPath));
  }
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    EXPECT_EQ(DecodeIdentity(good.substr(0, bytes), kPath).code(), Code::kCorruption);
  }
  EXPECT_EQ(DecodeIdentity(good + '\0', kPath).code(), Code::kCorruption);
  std::string newer = good + "and more";
  newer[8] = 2;
  EXPECT_EQ(DecodeIdentity(newer, kPath).code(), Code::kVersion);
  NodeIdentity nobody = kIdentity;
  nobody.node = 0;
  EXPECT_EQ(DecodeIdentity(EncodeIdentity(nobody), kPath).code(), Code::kCorruption);
}

Task<Status> Answer(Status status) { co_return status; }

class NodeIdentityTest : public ::testing::Test {
 public:
  NodeIdentityTest() : machine_(kernel_.AddMachine()) {
    machine_->disk().WriteAll("/lost+found", "");
    machine_->Boot();
    Open();
    cluster_.cluster_id = kCluster;
    cluster_.partitions = 2;
    cluster_.replicas = 1;
    cluster_.min_isr = 1;
    Put("cluster", *Encode(cluster_));
    node_.protocol_min = node_.protocol_max = 1;  // of an older build
    for (node_.id = 1; node_.id <= 2; ++node_.id) Put(NodeKey(node_.id), *Encode(node_));
    PartitionRecord partition;
    partition.master = {1, 1};
    partition.isr = {{1, {1, 1}, ""}};
    partition.replicas = partition.min_isr = 1;
    for (partition.id = 0; partition.id < 2; ++partition.id) {
      std::tie(partition.first_hash, partition.last_hash) = HashRangeOf(partition.id, 2);
      partition.epoch = 4 + partition.id;
      Put(PartitionKey(partition.id), *Encode(partition));
    }
  }
  ~NodeIdentityTest() override { Close(); }

  void Open() {
    auto store = std::make_unique<SimTopology>(reactor(), &server_);
    store_ = store.get();
    topology_ = std::make_unique<Topology>(reactor(), std::move(store));
  }
  void Close() { EXPECT_OK(Run(topology_->Close())); }
  Reactor& reactor() { return *machine_->reactor(); }
  SimDisk& disk() { return machine_->disk(); }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  Revision Put(const std::string& key, const std::string& value) {
    const Revision before = Run(topology_->Read(key, kTimeout))->revision;
    Result<CasOutcome> outcome = Run(topology_->CompareAndSwap(key, before, value, kTimeout));
    CHECK(outcome.ok() && outcome->kind == CasOutcome::Kind::kStored);
    return outcome->revision;
  }
  NodeRecord Node(NodeId id = 1) { return *DecodeNode(*Run(topology_->Read(NodeKey(id), kTimeout))); }
  Result<JoinedStart> Begin(NodeId id = 1) { return Run(BeginStart(*topology_, reactor(), "/data", id, kTimeout)); }
  Status Finish(uint64_t start) {
    return Run(FinishStart(*topology_, 1, start, "10.0.0.1:7420", {"10.0.0.1:7430", "10.0.0.1:7431"}, kTimeout));
  }
  // A start that ends well.
  JoinedStart Start() {
    Result<JoinedStart> joined = Begin();
    CHECK(joined.ok()) << joined.status().ToString();
    EXPECT_OK(Finish(joined->incarnation));
    return *std::move(joined);
  }
  std::optional<NodeIdentity> Stored() { return *Run(LoadIdentity(reactor(), "/data")); }
  // A start that is refused leaves everything as it was. Returns the message.
  std::string Refused(Code code, NodeId id = 1) {
    const std::string before = disk().ReadAll(kPath);
    const auto entries = server_.entries();
    Result<JoinedStart> joined = Begin(id);
    EXPECT_EQ(joined.code(), code) << joined.status().ToString();
    EXPECT_EQ(disk().ReadAll(kPath), before);
    EXPECT_EQ(server_.entries(), entries);
    return joined.status().message();
  }

  SimKernel kernel_{21};
  SimMachine* machine_;
  SimTopologyServer server_;
  SimTopology* store_ = nullptr;
  std::unique_ptr<Topology> topology_;
  ClusterRecord cluster_;
  NodeRecord node_;
};

TEST_F(NodeIdentityTest, IsStoredAndLoaded) {
  EXPECT_EQ(Stored(), std::nullopt);
  EXPECT_OK(Run(StoreIdentity(reactor(), "/data", kIdentity)));
  EXPECT_EQ(Stored(), kIdentity);
  NodeIdentity next = kIdentity;
  ++next.start;
  EXPECT_OK(Run(StoreIdentity(reactor(), "/data", next)));
  EXPECT_EQ(Stored(), next);
  EXPECT_THAT(*disk().List("/data"), ElementsAre("cluster", "cluster.tmp"));
  disk().FlipBit(kPath, 40);
  EXPECT_EQ(Run(LoadIdentity(reactor(), "/data")).code(), Code::kCorruption);
}

TEST_F(NodeIdentityTest, Starts) {
  Result<JoinedStart> first = Begin();
  ASSERT_TRUE(first.ok()) << first.status().ToString();
  EXPECT_EQ(first->incarnation, 1u);
  EXPECT_EQ(first->history, DirectoryHistory::kContinued);
  EXPECT_EQ(first->map.cluster->record, cluster_);
  EXPECT_EQ(first->map.partitions.size(), 2u);
  EXPECT_EQ(Stored(), first->identity);
  EXPECT_EQ(first->identity, (NodeIdentity{kCluster, 1, 1, server_.revision(), 5, false}));
  EXPECT_EQ(Node().starts, 1u);
  EXPECT_EQ(Node().opened, 0u);
  EXPECT_OK(Finish(1));
  EXPECT_EQ(Node().opened, 1u);
  EXPECT_EQ(Node().client_address, "10.0.0.1:7420");
  EXPECT_THAT(Node().peer_addresses, ElementsAre("10.0.0.1:7430", "10.0.0.1:7431"));
  EXPECT_EQ(Node().protocol_min, kSpokenProtocolMin);
  EXPECT_EQ(Node().protocol_max, kSpokenProtocolMax);
  const JoinedStart second = Start();
  EXPECT_EQ(second.incarnation, 2u);
  EXPECT_EQ(second.history, DirectoryHistory::kContinued);
  // The first process was only slow, and is not the node any more.
  EXPECT_EQ(Finish(1).code(), Code::kAborted);
}

// RP3: so the node comes back, and deleting records makes room.
TEST_F(NodeIdentityTest, StartsWhenTheDiskIsFull) {
  Start();
  disk().SetCapacity(disk().used_bytes());
  for (uint64_t start = 2; start < 6; ++start) {
    EXPECT_EQ(Start().incarnation, start);
    EXPECT_EQ(Stored()->start, start);
  }
}

// What an earlier version has left, which kept no spare: there must be room once.
TEST_F(NodeIdentityTest, SaysThatTheDiskIsFull) {
  Start();
  disk().RemoveTree("/data/cluster.tmp");
  disk().SetCapacity(disk().used_bytes());
  const NodeIdentity before = *Stored();
  Result<JoinedStart> joined = Begin();
  EXPECT_EQ(joined.code(), Code::kDiskFull);
  EXPECT_THAT(joined.status().message(), HasSubstr("the disk is full, so /data/cluster cannot be replaced"));
  EXPECT_THAT(joined.status().message(), HasSubstr("nothing is lost. Make room there"));
  EXPECT_EQ(Stored(), before);
  disk().SetCapacity(disk().used_bytes() + 4096);
  const uint64_t next = Start().incarnation;
  disk().SetCapacity(disk().used_bytes());
  EXPECT_EQ(Start().incarnation, next + 1);
}

// Somebody else may be the node still: then nothing is raised, so that the process that runs stays the newest.
TEST_F(NodeIdentityTest, AStartThatIsNotAllowedChangesNothing) {
  const JoinedStart before = Start();
  const auto entries = server_.entries();
  std::optional<NodeRecord> asked;
  StartCheck refuse = [&](const Uuid& cluster, const NodeRecord& record) {
    EXPECT_EQ(cluster, kCluster);
    asked = record;
    return Answer(Error(Code::kInvalidArgument, "not now"));
  };
  EXPECT_EQ(Run(BeginStart(*topology_, reactor(), "/data", 1, kTimeout, refuse)).status().message(), "not now");
  EXPECT_EQ(server_.entries(), entries);
  EXPECT_EQ(Stored(), before.identity);
  ASSERT_TRUE(asked);
  EXPECT_EQ(*asked, Node());
  // It is asked only for a directory that may be used.
  asked.reset();
  EXPECT_EQ(Run(BeginStart(*topology_, reactor(), "/data", 2, kTimeout, refuse)).code(), Code::kInvalidArgument);
  EXPECT_FALSE(asked);
  StartCheck allow = [](const Uuid&, const NodeRecord&) { return Answer(Status()); };
  EXPECT_EQ(Run(BeginStart(*topology_, reactor(), "/data", 1, kTimeout, allow))->incarnation, 2u);
}

TEST_F(NodeIdentityTest, RefusesWhatIsNotItsCluster) {
  Start();
  cluster_.cluster_id.lo += 1;
  Put("cluster", *Encode(cluster_));
  const std::string message = Refused(Code::kInvalidArgument);
  EXPECT_THAT(message, HasSubstr("/data belongs to node 1 of the cluster " + kCluster.ToString()));
  EXPECT_THAT(message, HasSubstr("that of the cluster " + cluster_.cluster_id.ToString()));
  EXPECT_THAT(message, HasSubstr("correct --data_dir or --topology"));
  cluster_.cluster_id = kCluster;
  Put("cluster", *Encode(cluster_));
  EXPECT_THAT(Refused(Code::kInvalidArgument, 2), HasSubstr("/data belongs to node 1, and not to node 2"));
  Start();
}

TEST_F(NodeIdentityTest, RefusesANodeThatIsNotThere) {
  EXPECT_THAT(Refused(Code::kNotFound, 3), HasSubstr("has no node 3"));
  Start();
  NodeRecord record = Node();
  record.state = NodeState::kRemoved;
  Put(NodeKey(1), *Encode(record));
  EXPECT_THAT(Refused(Code::kInvalidArgument), HasSubstr("node 1 has been removed from the cluster"));
  record.state = NodeState::kDraining;
  Put(NodeKey(1), *Encode(record));
  Start();
}

TEST_F(NodeIdentityTest, WaitsForAWholeCluster) {
  cluster_.creating = "1,2";
  Put("cluster", *Encode(cluster_));
  EXPECT_THAT(Refused(Code::kUnavailable), HasSubstr("run kvadmin cluster init again"));
  cluster_.creating.clear();
  Put("cluster", *Encode(cluster_));
  Start();
  Close();
  server_ = {};
  Open();
  EXPECT_THAT(Refused(Code::kNotFound), HasSubstr("make it anew with: kvadmin topology recover"));
}

// Each number that has gone back is noticed alone.
TEST_F(NodeIdentityTest, RefusesATopologyThatWentBack) {
  Start();
  const NodeIdentity mine = *Stored();
  auto refused_with = [&](NodeIdentity newer) {
    EXPECT_OK(Run(StoreIdentity(reactor(), "/data", newer)));
    const std::string message = Refused(Code::kCorruption);
    EXPECT_THAT(message, HasSubstr("has gone back"));
    EXPECT_OK(Run(StoreIdentity(reactor(), "/data", mine)));
    return message;
  };
  NodeIdentity newer = mine;
  newer.seen = server_.revision() + 1;
  EXPECT_THAT(refused_with(newer), HasSubstr(fmt::format("its revision is {}, and /data has seen {}",
                                                         server_.revision(), server_.revision() + 1)));
  newer = mine;
  newer.epoch = 6;
  EXPECT_THAT(refused_with(newer), HasSubstr("its highest epoch is 5, and /data has seen 6"));
  newer = mine;
  newer.start = 2;
  EXPECT_THAT(refused_with(newer), HasSubstr("the number of starts of node 1 is 1, and /data has seen 2"));
  Start();
}

TEST_F(NodeIdentityTest, RefusesDamagedFilesAndValues) {
  Start();
  Put(PartitionKey(1), "{");
  EXPECT_THAT(Refused(Code::kCorruption), HasSubstr("partition/00001"));
  disk().FlipBit(kPath, 40);
  EXPECT_THAT(Refused(Code::kCorruption), HasSubstr("/data/cluster does not match its checksum"));
  store_->faults().unreachable = true;
  disk().RemoveTree(kPath);
  const Nanos before_ns = reactor().NowNs();
  Result<JoinedStart> joined = Begin();
  EXPECT_EQ(joined.code(), Code::kUnavailable);
  EXPECT_THAT(joined.status().message(), HasSubstr("the cluster cannot be joined"));
  EXPECT_LT(reactor().NowNs() - before_ns, kTimeout + kSecond);
  EXPECT_FALSE(disk().Exists(kPath));
}

// NI2: an old copy stays one over starts that end too soon, although its start counter is now right.
TEST_F(NodeIdentityTest, AnOldCopyStaysOne) {
  Start();
  const std::string image = disk().ReadAll(kPath);
  Start();
  disk().WriteAll(kPath, image);
  for (uint64_t start = 3; start < 6; ++start) {
    Result<JoinedStart> joined = Begin();
    ASSERT_TRUE(joined.ok()) << joined.status().ToString();
    EXPECT_EQ(joined->history, DirectoryHistory::kRestored);
    EXPECT_EQ(joined->incarnation, start);
    EXPECT_TRUE(Stored()->renew);
    if (start == 4) EXPECT_OK(Finish(start));  // who forgets to say it is done does it twice
  }
  NodeIdentity renewed = *Stored();
  renewed.renew = false;
  EXPECT_OK(Run(StoreIdentity(reactor(), "/data", renewed)));
  EXPECT_EQ(Start().history, DirectoryHistory::kContinued);
  disk().RemoveTree("/data");
  EXPECT_EQ(Begin()->history, DirectoryHistory::kRestored);
}

}  // namespace
}  // namespace pando::topology_test
