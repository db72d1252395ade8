// What the nodes of a cluster of three (small_cluster.h) do with a partition that is retired, and with a half that is
// not open: to clients, to a feed, and to the data. Only the driver of a split is missing.
#include <gtest/gtest.h>

#include "src/partition/split_feed.h"
#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"

namespace pando {
namespace {

using replication::ReplicaHost;

struct Outcome {
  std::optional<Code> code;
};

// A write as clients send it: with a deadline.
Task<void> PutAt(SmallCluster* c, size_t node, Outcome* outcome) {
  WriteControl control;
  control.deadline_ns = c->member(node).reactor().NowNs() + 30 * kSecond;
  std::vector<WriteOp> ops(1);
  ops[0].key = "late";
  ops[0].value = "value";
  WriteOptions options;
  options.control = &control;
  outcome->code = (co_await c->place(node)->Write(std::move(ops), options)).code();
}

Task<Result<std::vector<OpResult>>> WriteOfSplit(Partition* partition, RecordOp op) {
  std::vector<WriteOp> ops(1);
  ops[0].op = op;
  ops[0].key = SplitFeed::ClaimKey();
  if (op == RecordOp::kPut) ops[0].value = "claim";
  WriteOptions options;
  options.of_split = true;
  co_return co_await partition->Write(std::move(ops), options);
}

Task<Status> Get(Partition* partition) { co_return (co_await partition->Get("key", kNewest, nullptr)).status(); }

Task<Status> AwaitAny(ReplicaHost* host, Nanos deadline_ns) {
  ReplicaRead read;
  read.deadline_ns = deadline_ns;
  co_return co_await host->Await(0, read);
}

class Members {
 public:
  explicit Members(uint64_t seed = 1) : c(seed) { c.drives_splits = false; }

  void Start() { ASSERT_TRUE(c.StartAll()); }
  ReplicaHost& host(size_t i) { return *c.member(i).host(); }
  bool Splits() {
    const auto set = [this] {
      const size_t i = c.master();
      if (i == 3) return false;
      const Result<bool> says_so = host(i).SetSplit(0, SplitOrder{});
      return says_so.ok() && *says_so;
    };
    return c.RunUntil(set, 5 * kSecond);
  }
  // A cluster without a partition that serves would not start, so it becomes a half only then.
  void Build() {
    PartitionRecord record = c.record();
    record.state = PartitionStage::kBuilding;
    c.Change(record, PartitionKey(0));
    c.Run(500 * kMillisecond);
  }
  Status Hold(size_t i) { return c.On(i, host(i).HoldForSplit(0, 20 * kSecond)); }
  Status Retire(size_t i, Nanos timeout_ns) { return c.On(i, host(i).Retire(0, timeout_ns)); }
  Code ReadAnywhere(size_t i) { return c.On(i, AwaitAny(&host(i), c.member(i).reactor().NowNs() + kSecond)).code(); }

  SmallCluster c;
};

void RetireInPeace() {
  Members m;
  m.Start();
  ASSERT_EQ(m.c.Put("key", "value"), Code::kOk);
  const size_t i = m.c.master(), other = (i + 1) % 3;
  EXPECT_EQ(m.host(other).SetSplit(0, SplitOrder{}).code(), Code::kNotMaster);
  EXPECT_EQ(m.Hold(other).code(), Code::kNotMaster);
  EXPECT_EQ(m.Retire(i, kSecond).code(), Code::kAborted) << "nothing is held";
  ASSERT_TRUE(m.Splits());
  ASSERT_TRUE(m.Hold(i).ok());
  EXPECT_EQ(m.Hold(i).code(), Code::kOverloaded);
  Outcome late;
  m.c.member(i).calls().Spawn(PutAt(&m.c, i, &late));
  m.c.Run(kSecond);
  EXPECT_FALSE(late.code.has_value()) << "it is held";
  EXPECT_TRUE(m.c.On(i, Get(m.c.place(i))).ok()) << "reads go on";
  EXPECT_TRUE(m.Retire(i, kSecond).ok());
  EXPECT_TRUE(m.Retire(i, kSecond).ok()) << "it says so again";
  ASSERT_TRUE(m.c.RunUntil([&] { return late.code.has_value(); }, 100 * kMillisecond));
  EXPECT_EQ(late.code, Code::kNotMaster) << "and it has no effect";
  EXPECT_EQ(m.c.record().state, PartitionStage::kRetired);
  // Nobody serves. Then the data are dropped, and do not come back.
  EXPECT_NE(m.c.On(i, Get(m.c.place(i))).code(), Code::kOk);
  const auto dropped = [&] {
    for (size_t n = 0; n < 3; ++n) {
      if (m.host(n).Find(0) != nullptr) return false;
    }
    return true;
  };
  EXPECT_TRUE(m.c.RunUntil(dropped, 10 * kSecond));
  m.c.Run(3 * kSecond);
  EXPECT_TRUE(dropped());
}

void LetGo() {
  Members m;
  m.Start();
  ASSERT_TRUE(m.Splits());
  const size_t i = m.c.master();
  ASSERT_TRUE(m.Hold(i).ok());
  Outcome late;
  m.c.member(i).calls().Spawn(PutAt(&m.c, i, &late));
  m.c.Run(kSecond);
  m.host(i).LetGo(0);
  ASSERT_TRUE(m.c.RunUntil([&] { return late.code.has_value(); }, 100 * kMillisecond));
  EXPECT_EQ(late.code, Code::kOk);
}

// The topology does not say what became of the swap, or is late.
void RetireInDoubt(uint64_t seed) {
  Members m(seed);
  m.Start();
  ASSERT_TRUE(m.Splits());
  const size_t i = m.c.master();
  ASSERT_TRUE(m.Hold(i).ok());
  m.c.topology_faults(i).unknown_probability = seed % 2 == 0 ? 1 : 0;
  m.c.topology_faults(i).unreachable = seed % 2 == 1;
  Status how = m.Retire(i, 300 * kMillisecond);
  if (how.code() == Code::kUnavailable) {
    EXPECT_EQ(m.c.master(), 3u) << "it neither reads nor writes";
  }
  m.c.topology_faults(i) = {};
  for (int tries = 0; how.code() == Code::kUnavailable && tries < 20; ++tries) how = m.Retire(i, kSecond);
  const bool retired = m.c.record().state == PartitionStage::kRetired;
  EXPECT_EQ(how.code(), retired ? Code::kOk : Code::kAborted) << how.ToString();
  if (retired) return;
  EXPECT_TRUE(m.c.RunUntil([&] { return m.c.Put("key", "1") == Code::kOk; }, 5 * kSecond));
  EXPECT_TRUE(m.c.record().split.has_value());
}

// The record of the partition says that it is a half that is being built.
void OpenHalf() {
  Members m;
  m.Start();
  const size_t i = m.c.master();
  m.Build();
  EXPECT_EQ(m.c.Put("key", "1"), Code::kNotMaster);
  EXPECT_EQ(m.c.On(i, Get(m.c.place(i))).code(), Code::kNotMaster);
  EXPECT_TRUE(m.c.On(i, Get(m.c.member(i).engine()->partition(0))).ok()) << "the feed reads";
  for (size_t n = 0; n < 3; ++n) EXPECT_EQ(m.ReadAnywhere(n), Code::kNotMaster);
  EXPECT_EQ(m.host(i).SetSplit(0, SplitOrder{}).code(), Code::kInvalidArgument);
  ASSERT_TRUE(m.c.On(i, WriteOfSplit(m.c.member(i).engine()->partition(0), RecordOp::kPut)).ok());
  ASSERT_TRUE(m.c.On(i, WriteOfSplit(m.c.member(i).engine()->partition(0), RecordOp::kRemove)).ok());
  const Lsn opened = m.host(i).Shown(0)->lsn;
  EXPECT_EQ(m.host(i).SetServing(0, opened + 1).code(), Code::kInvalidArgument);
  const auto opens = [&] {
    const Result<bool> set = m.host(i).SetServing(0, opened);
    return set.ok() && *set;
  };
  ASSERT_TRUE(m.c.RunUntil(opens, kSecond));
  EXPECT_EQ(m.c.record().opened_lsn, opened);
  EXPECT_EQ(m.c.Put("key", "1"), Code::kOk);
  EXPECT_TRUE(m.c.On(i, Get(m.c.place(i))).ok());
  // Nothing is fed any more. The others serve as soon as they have heard of it.
  EXPECT_EQ(m.c.On(i, WriteOfSplit(m.c.member(i).engine()->partition(0), RecordOp::kPut)).code(), Code::kAborted);
  const auto all = [&] { return m.ReadAnywhere(0) == m.ReadAnywhere(1) && m.ReadAnywhere(2) == Code::kOk; };
  EXPECT_TRUE(m.c.RunUntil(all, 3 * kSecond));
}

void OldProtocol() {
  Members m;
  ClusterRecord cluster = m.c.cluster();
  cluster.protocol = 2;
  m.c.Change(cluster, std::string(kClusterKey));
  m.Start();
  const size_t i = m.c.master();
  m.Build();
  Partition* half = m.c.member(i).engine()->partition(0);
  EXPECT_EQ(m.c.On(i, WriteOfSplit(half, RecordOp::kPut)).code(), Code::kUnsupported);
  cluster.protocol = 3;
  m.c.Change(cluster, std::string(kClusterKey));
  const auto fed = [&] { return m.c.On(i, WriteOfSplit(half, RecordOp::kPut)).ok(); };
  EXPECT_TRUE(m.c.RunUntil(fed, 5 * kSecond));
}

void InChild(const std::function<void()>& test) {
  EXPECT_TRUE(InChildProcess([&] {
    FLAGS_minloglevel = 3;
    test();
    return !testing::Test::HasFailure();
  }));
}

TEST(SplittingMembers, RetireAPartitionAndDropItsData) { InChild(RetireInPeace); }
TEST(SplittingMembers, LetItsWritesGo) { InChild(LetGo); }
TEST(SplittingMembers, SayHowARetirementInDoubtHasEnded) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    InChild([seed] { RetireInDoubt(seed); });
  }
}
TEST(SplittingMembers, ServeNoClientBeforeAHalfIsOpen) { InChild(OpenHalf); }
TEST(SplittingMembers, FeedNothingToBuildsThatDoNotKnowFeeds) { InChild(OldProtocol); }

}  // namespace
}  // namespace pando
