// The records of the cluster map: golden text, unknown fields, and the rules of each.
#include "src/topology/cluster_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const Uuid kCluster = *Uuid::Parse("0f0e0d0c-0b0a-0908-0706-050403020100");
Uuid ReplicaId(int i) { return {0x1111222233334444ull, static_cast<uint64_t>(i)}; }

ClusterRecord Cluster() {
  ClusterRecord r;
  r.cluster_id = kCluster;
  r.protocol = 1;
  r.partitions = 64;
  r.replicas = 3;
  r.min_isr = 2;
  r.op_id = "0000000000000abc";
  return r;
}
NodeRecord Node() {
  NodeRecord r;
  r.id = 7;
  r.client_address = "10.0.0.7:7420";
  r.peer_addresses = {"[fd00::7]:7430", "[fd00::7]:7431"};
  r.zone = "rack-2";
  r.weight = 3;
  r.protocol_max = 3;
  r.starts = 12;
  r.opened = 11;
  r.op_id = "ffffffffffffffff";
  return r;
}
PartitionRecord Partition() {
  PartitionRecord r;
  r.id = 12;
  std::tie(r.first_hash, r.last_hash) = HashRangeOf(12, 64);
  r.lineage = 1;
  r.epoch = 9;
  r.master = ReplicaId(1);
  r.isr = {{1, ReplicaId(1), ""}, {2, ReplicaId(2), ""}};
  r.evicted = {{3, ReplicaId(3), ""}};
  r.learners = {{3, ReplicaId(4), ""}};  // the same node, with a new disk
  r.replicas = 3;
  r.min_isr = 2;
  r.op_id = "11112222-3333-4444-0000-000000000001/12/3";
  return r;
}

constexpr char kClusterText[] =
    R"({"cluster_id":"0f0e0d0c-0b0a-0908-0706-050403020100","creating":"","format":2,"min_isr":2,)"
    R"("op_id":"0000000000000abc","partitions":64,"protocol":1,"replicas":3})";
constexpr char kNodeText[] =
    R"({"client_address":"10.0.0.7:7420","format":2,"op_id":"ffffffffffffffff","opened":11,)"
    R"("peer_addresses":["[fd00::7]:7430","[fd00::7]:7431"],"protocol_max":3,"protocol_min":1,"starts":12,)"
    R"("state":"active","weight":3,"zone":"rack-2"})";
constexpr char kPartitionText[] =
    R"({"epoch":9,"evicted":[{"node":3,"replica":"11112222-3333-4444-0000-000000000003"}],)"
    R"("first_hash":"3000000000000000","format":2,)"
    R"("isr":[{"node":1,"replica":"11112222-3333-4444-0000-000000000001"},)"
    R"({"node":2,"replica":"11112222-3333-4444-0000-000000000002"}],"last_hash":"33ffffffffffffff",)"
    R"("learners":[{"node":3,"replica":"11112222-3333-4444-0000-000000000004"}],"lineage":1,)"
    R"("master":"11112222-3333-4444-0000-000000000001","min_isr":2,)"
    R"("op_id":"11112222-3333-4444-0000-000000000001/12/3","replicas":3})";

// What versions of format 1 have written.
constexpr char kClusterText1[] =
    R"({"cluster_id":"0f0e0d0c-0b0a-0908-0706-050403020100","format":1,"min_isr":2,"op_id":"0000000000000abc",)"
    R"("partitions":64,"protocol":1,"replicas":3})";
constexpr char kNodeText1[] =
    R"({"client_address":"10.0.0.7:7420","format":1,"op_id":"ffffffffffffffff","opened":11,)"
    R"("peer_address":"[fd00::7]:7430","protocol_max":3,"protocol_min":1,"starts":12,"state":"active","zone":"rack-2"})";
constexpr char kPartitionText1[] =
    R"({"epoch":9,"evicted":[{"node":3,"replica":"11112222-3333-4444-0000-000000000003"}],)"
    R"("first_hash":"3000000000000000","format":1,)"
    R"("isr":[{"node":1,"replica":"11112222-3333-4444-0000-000000000001"},)"
    R"({"node":2,"replica":"11112222-3333-4444-0000-000000000002"}],"last_hash":"33ffffffffffffff",)"
    R"("learners":[{"node":3,"replica":"11112222-3333-4444-0000-000000000004"}],"lineage":1,)"
    R"("master":"11112222-3333-4444-0000-000000000001","min_isr":2,"op_id":"0000000000000001","replicas":3})";

TEST(ClusterMap, GoldenText) {
  EXPECT_EQ(*Encode(Cluster()), kClusterText);
  EXPECT_EQ(*Encode(Node()), kNodeText);
  EXPECT_EQ(*Encode(Partition()), kPartitionText);
  EXPECT_EQ(*DecodeCluster({"cluster", kClusterText, 1}), Cluster());
  EXPECT_EQ(*DecodeNode({"node/7", kNodeText, 1}), Node());
  EXPECT_EQ(*DecodePartition({"partition/00012", kPartitionText, 1}), Partition());
  EXPECT_EQ(OpIdOf(kPartitionText), "11112222-3333-4444-0000-000000000001/12/3");
  EXPECT_EQ(OpIdOf(kNodeText), "ffffffffffffffff");
  EXPECT_EQ(OpIdOf("{}"), std::nullopt);
  EXPECT_EQ(OpIdOf("["), std::nullopt);
}

TEST(ClusterMap, TheControllersRecord) {
  ControllerRecord record;
  record.holder = 3;
  record.incarnation = 7;
  record.renewed = 12;
  record.replacing = Replacing::kOff;
  record.op_id = "abc";
  const std::string text = R"({"format":2,"holder":3,"incarnation":7,"op_id":"abc","renewed":12,"replacing":"off"})";
  EXPECT_EQ(*Encode(record), text);
  EXPECT_EQ(*DecodeController({"controller", text, 1}), record);
  std::string other = text;
  other.replace(other.find("off"), 3, "ofu");
  EXPECT_EQ(DecodeController({"controller", other, 1}).code(), Code::kCorruption);
  other = text;
  other.insert(1, R"("a":[],)");
  EXPECT_EQ(*Encode(*DecodeController({"controller", other, 1})), other);
  ClusterMap map;
  EXPECT_FALSE(map.controller.has_value());
  ASSERT_TRUE(map.Apply({"controller", text, 5}).ok());
  EXPECT_EQ(map.controller->revision, 5u);
}

// A value of format 1 means the same, and has format 2 after a change.
TEST(ClusterMap, ReadsFormat1) {
  EXPECT_EQ(*DecodeCluster({"cluster", kClusterText1, 1}), Cluster());
  NodeRecord node = Node();
  node.peer_addresses.pop_back();
  node.weight = 1;  // which earlier versions do not know
  EXPECT_EQ(*DecodeNode({"node/7", kNodeText1, 1}), node);
  PartitionRecord partition = Partition();
  partition.op_id = "0000000000000001";
  EXPECT_EQ(*DecodePartition({"partition/00012", kPartitionText1, 1}), partition);
  EXPECT_EQ(OpIdOf(kPartitionText1), "0000000000000001");
  EXPECT_EQ(*Encode(*DecodeCluster({"cluster", kClusterText1, 1})), kClusterText);
  const std::string written = *Encode(*DecodeNode({"node/7", kNodeText1, 1}));
  EXPECT_THAT(written, HasSubstr(R"("format":2)"));
  EXPECT_THAT(written, HasSubstr(R"("peer_addresses":["[fd00::7]:7430"])"));
  EXPECT_THAT(written, Not(HasSubstr("\"peer_address\"")));
  // A field of one format is not that of another.
  std::string text = kNodeText;
  text.replace(text.find("\"format\":2"), 10, "\"format\":1");
  EXPECT_EQ(DecodeNode({"node/7", text, 1}).code(), Code::kCorruption);
  text = kNodeText1;
  text.replace(text.find("\"format\":1"), 10, "\"format\":2");
  EXPECT_EQ(DecodeNode({"node/7", text, 1}).code(), Code::kCorruption);
}

// All replicas of a partition, on whatever node and of whatever version, compute the same UUID.
TEST(ClusterMap, PartitionUuids) {
  EXPECT_EQ(PartitionUuid(kCluster, 12).ToString(), "fc8f0fba-2059-8b7d-9373-dc6eaf89a4de");
  std::set<Uuid> uuids;
  for (uint32_t id = 0; id < 1000; ++id) {
    const Uuid uuid = PartitionUuid(kCluster, id);
    EXPECT_EQ(uuid.hi >> 12 & 0xf, 8u);
    EXPECT_EQ(uuid.lo >> 62, 2u);
    EXPECT_TRUE(uuids.insert(uuid).second);
  }
  EXPECT_NE(PartitionUuid({kCluster.hi, kCluster.lo + 1}, 12), PartitionUuid(kCluster, 12));
  EXPECT_NE(PartitionUuid({kCluster.hi + 1, kCluster.lo}, 12), PartitionUuid(kCluster, 12));
}

TEST(ClusterMap, Keys) {
  EXPECT_EQ(NodeKey(7), "node/7");
  EXPECT_EQ(PartitionKey(12), "partition/00012");
  EXPECT_EQ(NodeOfKey("node/7"), 7u);
  EXPECT_EQ(PartitionOfKey("partition/00012"), 12u);
  EXPECT_EQ(PartitionOfKey("partition/123456"), 123456u);
  for (const char* key : {"node/", "node/0", "node/07", "node/7x", "node/99999999999", "partition/00012"}) {
    EXPECT_EQ(NodeOfKey(key), std::nullopt) << key;
  }
  for (const char* key : {"partition/12", "partition/000012", "partition/-0012", "node/7", "partition"}) {
    EXPECT_EQ(PartitionOfKey(key), std::nullopt) << key;
  }
  for (const std::string& key : {NodeKey(UINT32_MAX), PartitionKey(UINT32_MAX)}) {
    EXPECT_TRUE(CheckTopologyKey(key).ok()) << key;
  }
}

TEST(ClusterMap, HashRangesCoverTheSpace) {
  EXPECT_EQ(HashRangeOf(0, 1), (std::pair<uint64_t, uint64_t>(0, UINT64_MAX)));
  for (const uint32_t count : {1u, 2u, 64u, 4096u}) {
    uint64_t next = 0;
    for (uint32_t id = 0; id < count; ++id) {
      const auto [first, last] = HashRangeOf(id, count);
      EXPECT_EQ(first, next);
      next = last + 1;
    }
    EXPECT_EQ(next, 0u);
  }
}

// TM3. The halves of partition 0 of 2 are 2 and 3.
TEST(ClusterMap, TheRecordOfTheWholeSaysWhetherItOrItsHalvesServe) {
  ClusterMap map;
  ClusterRecord cluster = Cluster();
  cluster.partitions = 2;
  map.cluster = {cluster, 1};
  NodeRecord node = Node();
  for (NodeId id = 1; id <= 3; ++id) map.nodes[id] = {node, 1};
  const auto put = [&](uint32_t id, PartitionStage state) {
    PartitionRecord r = Partition();
    r.id = id;
    std::tie(r.first_hash, r.last_hash) = HashRangeOf(id, 2);
    r.state = state;
    map.partitions[id] = {r, 1};
  };
  put(0, PartitionStage::kServing);
  put(1, PartitionStage::kServing);
  EXPECT_THAT(map.Serving(), ElementsAre(0, 1));
  put(2, PartitionStage::kBuilding);
  put(3, PartitionStage::kBuilding);
  EXPECT_THAT(map.Serving(), ElementsAre(0, 1));
  EXPECT_THAT(map.Problems(), ElementsAre());
  put(0, PartitionStage::kRetired);
  EXPECT_THAT(map.Serving(), ElementsAre(1, 2, 3));
  EXPECT_THAT(map.Problems(), ElementsAre());
  put(2, PartitionStage::kServing);
  EXPECT_THAT(map.Serving(), ElementsAre(1, 2, 3));
  // A half that was given up, and one whose whole is missing.
  put(0, PartitionStage::kServing);
  put(2, PartitionStage::kRetired);
  put(3, PartitionStage::kRetired);
  EXPECT_THAT(map.Serving(), ElementsAre(0, 1));
  EXPECT_THAT(map.Problems(), ElementsAre());
  map.partitions.erase(0);
  put(2, PartitionStage::kBuilding);
  EXPECT_THAT(map.Serving(), ElementsAre(1));
  EXPECT_THAT(map.Problems(), testing::Not(ElementsAre()));
}

// Builds that do not know states must not take such a partition for one that serves.
TEST(ClusterMap, StatesNeedFormat3) {
  PartitionRecord r = Partition();
  EXPECT_THAT(*Encode(r), HasSubstr("\"format\":2"));
  r.state = PartitionStage::kBuilding;
  const std::string building = *Encode(r);
  EXPECT_THAT(building, HasSubstr("\"format\":3"));
  EXPECT_THAT(building, HasSubstr("\"replicas\":3,\"state\":\"building\"}"));
  EXPECT_EQ(*DecodePartition({"partition/00012", building, 1}), r);
  r.state = PartitionStage::kServing;
  r.split = SplitOrder{64, ""};
  const std::string split = *Encode(r);
  EXPECT_THAT(split, HasSubstr("\"format\":3"));
  EXPECT_THAT(split, HasSubstr("\"replicas\":3,\"split\":{\"rate_mb_s\":64},\"state\":\"serving\"}"));
  EXPECT_EQ(*DecodePartition({"partition/00012", split, 1}), r);
  r.state = PartitionStage::kRetired;
  EXPECT_EQ(Encode(r).code(), Code::kInvalidArgument);
}

// A build that does not know the field would serve too early.
TEST(ClusterMap, WhereAHalfWasOpenedNeedsFormat3) {
  PartitionRecord r = Partition();
  r.opened_lsn = 4711;
  const std::string opened = *Encode(r);
  EXPECT_THAT(opened, HasSubstr("\"format\":3"));
  EXPECT_THAT(opened, HasSubstr("/12/3\",\"opened_lsn\":4711,\"replicas\":3,\"state\":\"serving\"}"));
  EXPECT_EQ(*DecodePartition({"partition/00012", opened, 1}), r);
  // One that is split later keeps it. One that is being built has none.
  r.split = SplitOrder{64, ""};
  EXPECT_EQ(*DecodePartition({"partition/00012", *Encode(r), 1}), r);
  r.split.reset();
  r.state = PartitionStage::kRetired;
  EXPECT_EQ(*DecodePartition({"partition/00012", *Encode(r), 1}), r);
  r.state = PartitionStage::kBuilding;
  EXPECT_EQ(Encode(r).code(), Code::kInvalidArgument);
  r.opened_lsn = 0;
  EXPECT_THAT(*Encode(r), Not(HasSubstr("opened_lsn")));
  std::string text = opened;
  text.replace(text.find("4711"), 4, "-471");
  EXPECT_EQ(DecodePartition({"partition/00012", text, 1}).code(), Code::kCorruption);
}

// TM1: a newer version has added fields, at every level.
TEST(ClusterMap, UnknownFieldsSurvive) {
  std::string text = kPartitionText;
  text.replace(text.find("{\"node\":2,"), 10, R"({"host":{"rack":[1,2.5,null,"é"]},"node":2,)");
  text.replace(text.find("{\"epoch\""), 1, R"({"compaction":{"b":1,"a":true},)");
  Result<PartitionRecord> read = DecodePartition({"partition/00012", text, 1});
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->isr[1].unknown, R"({"host":{"rack":[1,2.5,null,"é"]}})");
  ++read->epoch;
  std::swap(read->isr[0], read->isr[1]);
  const std::string written = *Encode(*read);
  EXPECT_THAT(written, HasSubstr(R"("compaction":{"a":true,"b":1})"));
  EXPECT_THAT(written, HasSubstr(R"({"host":{"rack":[1,2.5,null,"é"]},"node":2,"replica":)"));
  EXPECT_THAT(written, HasSubstr(R"("epoch":10)"));
  EXPECT_EQ(*DecodePartition({"partition/00012", written, 1}), *read);

  text = kNodeText;
  text.insert(1, R"("a":[],)");
  Result<NodeRecord> node = DecodeNode({"node/7", text, 1});
  ASSERT_TRUE(node.ok());
  EXPECT_EQ(*Encode(*node), text);
  text = kClusterText;
  text.insert(1, R"("a":[],)");
  Result<ClusterRecord> cluster = DecodeCluster({"cluster", text, 1});
  ASSERT_TRUE(cluster.ok());
  EXPECT_EQ(*Encode(*cluster), text);
}

TEST(ClusterMap, RefusesWhatItCannotRead) {
  std::string newer = kPartitionText;
  newer.replace(newer.find("\"format\":2"), 10, "\"format\":4");
  Result<PartitionRecord> record = DecodePartition({"partition/00012", newer, 1});
  EXPECT_EQ(record.code(), Code::kVersion);
  EXPECT_THAT(record.status().message(), HasSubstr("partition/00012 has format 4"));

  const std::pair<const char*, const char*> kChanges[] = {
      {"\"epoch\":9", "\"epoch\":-9"},
      {"\"epoch\":9", "\"epoch\":9.0"},
      {"\"epoch\":9", "\"epoch\":\"9\""},
      {"\"epoch\":9", "\"epoch\":9007199254740992"},
      {"\"epoch\":9", "\"epoch\":0"},
      {"\"epoch\":9,", ""},
      {"\"lineage\":1", "\"lineage\":0"},
      {"\"first_hash\":\"3", "\"first_hash\":\"g"},
      {"\"first_hash\":\"3", "\"first_hash\":\""},
      {"\"first_hash\":\"3", "\"first_hash\":\"4"},
      {"\"master\":\"1", "\"master\":\"2"},
      {"\"isr\":[", "\"isr\":[[],"},
      {"\"isr\":[", "\"isr\":[{\"node\":2},"},
      {"\"isr\":[{\"node\":1", "\"isr\":[{\"node\":2"},
      {"\"isr\":[{\"node\":1", "\"isr\":[{\"node\":0"},
      {"000000000004\"", "000000000003\""},
      {"\"min_isr\":2", "\"min_isr\":3"},
      {"\"min_isr\":2", "\"min_isr\":0"},
      {"\"replicas\":3", "\"replicas\":0"},
      {"\"replicas\":3", "\"replicas\":17"},
      {"\"op_id\":\"11112222", "\"op_id\":1,\"x\":\"11112222"},
      {"\"format\":2", "\"format\":true"},
      {"{\"epoch\"", "[{\"epoch\""},
  };
  for (const auto& [from, to] : kChanges) {
    std::string text = kPartitionText;
    ASSERT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), std::string(from).size(), to);
    Result<PartitionRecord> bad = DecodePartition({"partition/00012", text, 1});
    EXPECT_EQ(bad.code(), Code::kCorruption) << from << " -> " << to;
    EXPECT_THAT(bad.status().message(), HasSubstr("partition/00012"));
  }
  for (size_t bytes = 0; bytes < sizeof kPartitionText - 1; ++bytes) {
    EXPECT_FALSE(DecodePartition({"partition/00012", std::string(kPartitionText, bytes), 1}).ok());
  }
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  EXPECT_EQ(DecodePartition({"partition/00012", "{\"format\":1,\"x\":" + deep + "}", 1}).code(), Code::kCorruption);
  EXPECT_EQ(DecodePartition({"partition/00012", R"({"format":0})", 1}).code(), Code::kVersion);
  std::string addresses = kNodeText;
  addresses.replace(addresses.find("[\"[fd00"), 2, "[7,\"");
  EXPECT_EQ(DecodeNode({"node/7", addresses, 1}).code(), Code::kCorruption);
  std::string state = kNodeText;
  state.replace(state.find("active"), 6, "asleep");
  EXPECT_EQ(DecodeNode({"node/7", state, 1}).code(), Code::kCorruption);
}

// TM2, I10: such a record is never written.
TEST(ClusterMap, RefusesToWriteWhatBreaksTheRules) {
  PartitionRecord r = Partition();
  r.isr.pop_back();
  EXPECT_EQ(Encode(r).code(), Code::kInvalidArgument);
  EXPECT_THAT(Encode(r).status().message(), HasSubstr("has an ISR of 1, and min_isr is 2"));
  r = Partition();
  r.master = ReplicaId(3);  // evicted
  EXPECT_THAT(Encode(r).status().message(), HasSubstr("is not in the ISR"));
  r = Partition();
  r.min_isr = 3;
  EXPECT_FALSE(Encode(r).ok());
  NodeRecord node = Node();
  node.opened = 13;
  EXPECT_THAT(Encode(node).status().message(), HasSubstr("has opened start 13 of 12"));
  node = Node();
  node.peer_addresses[1] = "nowhere";
  EXPECT_FALSE(Encode(node).ok());
  node = Node();
  node.peer_addresses.clear();
  EXPECT_THAT(Encode(node).status().message(), HasSubstr("it must have 1 to 256"));
  node.peer_addresses.assign(kMaxPeerAddresses + 1, "10.0.0.7:7430");
  EXPECT_FALSE(Encode(node).ok());
  // Only a node that has never been started has no addresses.
  node = Node();
  node.client_address.clear();
  EXPECT_FALSE(Encode(node).ok());
  node.peer_addresses.clear();
  EXPECT_THAT(Encode(node).status().message(), HasSubstr("has been started, and has no address"));
  node.opened = 0;
  EXPECT_TRUE(Encode(node).ok());
  node.op_id.assign(kMaxOpIdBytes + 1, 'x');
  EXPECT_FALSE(Encode(node).ok());
  node = Node();
  node.zone = std::string(kMaxTopologyValueBytes, 'z');
  EXPECT_THAT(Encode(node).status().message(), HasSubstr("takes at most"));
  node = Node();
  node.weight = kMaxNodeWeight + 1;
  EXPECT_THAT(Encode(node).status().message(), HasSubstr("the weight of node 7 is 65: it must be 1 to 64"));
  node.weight = 0;
  EXPECT_FALSE(Encode(node).ok());
  ClusterRecord cluster = Cluster();
  cluster.partitions = 63;
  EXPECT_FALSE(Encode(cluster).ok());
  cluster = Cluster();
  cluster.min_isr = 4;
  EXPECT_FALSE(Encode(cluster).ok());
  EXPECT_EQ(DefaultMinIsr(1), 1u);
  EXPECT_EQ(DefaultMinIsr(2), 2u);
  EXPECT_EQ(DefaultMinIsr(3), 2u);
  EXPECT_EQ(DefaultMinIsr(5), 3u);
}

TEST(ClusterMap, SaysWhatDoesNotFit) {
  ClusterMap map;
  EXPECT_THAT(map.Problems(), ElementsAre(HasSubstr("no cluster record"),
                                          "no partition has the hashes 0000000000000000 to ffffffffffffffff"));
  EXPECT_TRUE(map.Apply({"cluster", kClusterText, 5}).ok());
  EXPECT_TRUE(map.Apply({"future/1", "anything", 5}).ok());
  for (NodeId id = 1; id <= 3; ++id) {
    NodeRecord node = Node();
    node.id = id;
    EXPECT_TRUE(map.Apply({NodeKey(id), *Encode(node), 6}).ok());
  }
  PartitionRecord r = Partition();
  for (r.id = 0; r.id < 2; ++r.id) {
    std::tie(r.first_hash, r.last_hash) = HashRangeOf(r.id, 2);
    EXPECT_TRUE(map.Apply({PartitionKey(r.id), *Encode(r), 7}).ok());
  }
  EXPECT_EQ(map.partitions.at(1).revision, 7u);
  EXPECT_EQ(map.cluster->record, Cluster());
  EXPECT_THAT(map.Problems(),
              testing::Contains(HasSubstr("partition 0 has a range that is not the one of this number")));
  map.cluster->record.partitions = 2;
  EXPECT_THAT(map.Problems(), ElementsAre());

  map.nodes.at(3).record.state = NodeState::kRemoved;
  EXPECT_THAT(map.Problems(), testing::Contains(HasSubstr("partition 0 has a replica on node 3")));
  map.nodes.at(3).record.state = NodeState::kDraining;
  map.partitions.at(1).record.first_hash += 1;
  EXPECT_THAT(map.Problems(), ElementsAre("no partition has the hashes 8000000000000000 to 8000000000000000"));
  map.partitions.at(1).record.first_hash -= 2;
  EXPECT_THAT(map.Problems(), ElementsAre(HasSubstr("partition 1 overlaps")));
  EXPECT_EQ(map.Apply({"partition/00001", "{", 8}).code(), Code::kCorruption);
}

}  // namespace
}  // namespace pando
