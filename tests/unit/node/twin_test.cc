// Who is taken for a living process of the same node, and how long the question takes.
#include "src/node/twin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/replication/peer_harness.h"

namespace pando {
namespace {

using namespace replication;  // NOLINT: the harness's
using testing::HasSubstr;

// Node 1 serves, and somebody on another machine wants to be a node, too.
class Twin : public testing::Test {
 protected:
  Twin() : world_(3, 1), raw_(world_.kernel, HostOf(2)), asks_(world_.kernel.AddMachine("10.0.0.9")) { asks_->Boot(); }
  void TearDown() override {
    raw_.on_frame = nullptr;
    for (const auto& end : raw_.ends) end->on_frame = nullptr;
    if (world_.processes[0]) world_.Stop(1);
  }
  // The record of node `id`, which listens there.
  static NodeRecord Record(NodeId id, std::string address) {
    NodeRecord record;
    record.id = id;
    record.client_address = "10.0.0.7:7420";
    record.peer_addresses = {std::move(address), "10.0.0.1:1"};
    record.starts = record.opened = 1;
    return record;
  }
  Status Ask(NodeRecord record, Uuid cluster_id = kCluster) {
    const Nanos began_ns = world_.kernel.now_ns();
    std::optional<Status> status = world_.kernel.RunTask(
        *asks_->reactor(), CheckNoTwin(*asks_->reactor(), cluster_id, std::move(record), &memory_));
    took_ns_ = world_.kernel.now_ns() - began_ns;
    EXPECT_LE(memory_.used_bytes(), BudgetAccount::kChunkBytes);
    return *status;
  }
  bool IsAlone(NodeRecord record, Uuid cluster_id = kCluster) { return Ask(std::move(record), cluster_id).ok(); }
  void AnswerWith(std::string bytes) {
    raw_.on_frame = [bytes](PeerFrame, RawEnd* end) { end->Send(bytes); };
  }

  PeerWorld world_;
  RawMachine raw_;
  SimMachine* asks_;
  MemoryBudget memory_{1 << 20, 1 << 16};
  Nanos took_ns_ = 0;
};

TEST_F(Twin, IsFoundWhereTheNodeListens) {
  world_.Start(1);
  const Status status = Ask(Record(1, AddressOf(1)));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  for (const char* part : {"node 1 runs already", "process 1", "10.0.0.1:7000", "10.0.0.7:7420", "--node_id"}) {
    EXPECT_THAT(status.message(), HasSubstr(part));
  }
  EXPECT_LT(took_ns_, 100 * kMillisecond);
  EXPECT_EQ(world_.links(1).metrics().refused_total.value(), 1u);
}

TEST_F(Twin, OthersAreNone) {
  world_.Start(1);
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(1)), Uuid{1, 2})) << "a node of another cluster";
  EXPECT_TRUE(IsAlone(Record(2, AddressOf(1)))) << "another node, where this one was";
  EXPECT_TRUE(IsAlone(NodeRecord{})) << "it has never listened anywhere";
  NodeRecord nowhere = Record(1, "no address");
  EXPECT_TRUE(IsAlone(nowhere));
  EXPECT_LT(took_ns_, 100 * kMillisecond);
}

// A node that is restarted must not wait.
TEST_F(Twin, ARefusedConnectionIsAnAnswer) {
  world_.Start(1);
  world_.Crash(1);
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(1))));
  EXPECT_LT(took_ns_, 100 * kMillisecond);
}

TEST_F(Twin, SilenceCostsASecond) {
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(2)))) << "it accepts, and says nothing";
  EXPECT_GE(took_ns_, kTwinAnswerNs);
  EXPECT_LT(took_ns_, kTwinAnswerNs + 200 * kMillisecond);
  world_.Start(1);
  world_.kernel.network().CutBoth(HostOf(1), "10.0.0.9");
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(1))));
  EXPECT_GE(took_ns_, kTwinAnswerNs);
  EXPECT_LT(took_ns_, kTwinAnswerNs + 200 * kMillisecond);
}

TEST_F(Twin, NonsenseIsNoAnswer) {
  AnswerWith(EmptyFrame(PeerFrame::kPong));
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(2))));
  EXPECT_LT(took_ns_, 100 * kMillisecond);
  AnswerWith("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(IsAlone(Record(1, AddressOf(2))));
  EXPECT_LT(took_ns_, 100 * kMillisecond);
  AnswerWith(HelloReplyFrame({}));  // whoever accepts says that it is the node
  EXPECT_EQ(Ask(Record(1, AddressOf(2))).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace pando
