// PeerLinks between nodes: messages both ways, faults of the network and of processes, versions,
// addresses, memory.
#include "src/replication/peer_links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/random_messages.h"
#include "tests/support/seeds.h"
#include "tests/support/toy_filter.h"
#include "tests/unit/io/reactor_harness.h"
#include "tests/unit/replication/peer_harness.h"

namespace pando::replication {
namespace {

using testing::HasSubstr;

// -- on both reactors

template <typename Harness>
class PeersOnReactor : public testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(PeersOnReactor, ReactorImplementations, ReactorNames);

struct Pair {
  explicit Pair(Reactor& r, PeerOptions options = {}) : reactor(r) {
    options.cluster_id = kCluster;
    std::map<NodeId, std::vector<std::string>> addresses;
    for (NodeId node = 1; node <= 2; ++node) {
      options.node = node;
      options.incarnation = 10 + node;
      processes[node - 1] = std::make_unique<PeerProcess>(reactor, options, 64 << 20);
      Result<uint16_t> port = links(node).Listen({});
      CHECK(port.ok()) << port.status().ToString();
      addresses[node] = {fmt::format("127.0.0.1:{}", *port)};
    }
    for (NodeId node = 1; node <= 2; ++node) CHECK(links(node).SetAddresses(addresses).ok());
  }
  PeerLinks& links(NodeId node) { return processes[node - 1]->links; }
  Recorder& handler(NodeId node) { return processes[node - 1]->handler; }
  Task<void> UntilUp() {
    while (!links(1).IsUp(2, 0) || !links(2).IsUp(1, 0)) co_await Sleep(reactor, kMillisecond);
  }
  Task<void> Close() {
    co_await links(1).Close();
    co_await links(2).Close();
    EXPECT_EQ(links(1).metrics().links_up.value(), 0);
    EXPECT_EQ(links(1).metrics().filters.handshakes.value(), 0);
  }
  Reactor& reactor;
  std::unique_ptr<PeerProcess> processes[2];
};

Task<void> Exchange(Reactor& reactor, PeerOptions options) {
  Pair pair(reactor, options);
  co_await pair.UntilUp();
  SimRandom random(1);
  std::vector<std::pair<uint32_t, size_t>> sent[2];  // data and all else keep their order among themselves
  constexpr uint32_t kMessages = 2000;
  for (uint32_t i = 0; i < kMessages; ++i) {
    const size_t kind = random.Below(kMessageKinds);
    const Message message = RandomMessage(random, kind);
    const bool room = co_await pair.links(1).UntilRoom(2, 0);
    EXPECT_TRUE(room);
    EXPECT_TRUE(pair.links(1).Send(2, 0, i, message));
    sent[IsControl(message) ? 1 : 0].emplace_back(i, message.body.index());
    EXPECT_TRUE(pair.links(2).Send(1, 0, i, Beat(1, i)));
    if (random.Chance(0.02)) co_await Yield(reactor);
  }
  while (pair.handler(2).got.size() < kMessages || pair.handler(1).got.size() < kMessages) {
    co_await Sleep(reactor, kMillisecond);
  }
  std::vector<std::pair<uint32_t, size_t>> got[2];
  for (const Recorder::Got& g : pair.handler(2).got) {
    EXPECT_EQ(g.from, 1u);
    got[g.kind == kAppendKind ? 0 : 1].emplace_back(g.partition, g.kind);
  }
  EXPECT_EQ(got[0], sent[0]);
  EXPECT_EQ(got[1], sent[1]);
  for (uint32_t i = 0; i < kMessages; ++i) EXPECT_EQ(pair.handler(1).got[i].commit_lsn, i);
  co_await pair.Close();
}
TYPED_TEST(PeersOnReactor, MessagesArriveOnceAndInOrder) { this->harness_.Run(Exchange(this->harness_.reactor(), {})); }
TYPED_TEST(PeersOnReactor, ThroughFilters) {
  ToyFilters accept(/*client=*/false), connect(/*client=*/true, "node");
  PeerOptions options;
  options.accept_filters = &accept;
  options.connect_filters = &connect;
  this->harness_.Run(Exchange(this->harness_.reactor(), options));
}

// Large data, which leaves in many sends, and the end of everything in the middle of it.
Task<void> LargeData(Reactor& reactor) {
  Pair pair(reactor);
  co_await pair.UntilUp();
  for (uint32_t i = 0; i < 30; ++i) {
    const bool room = co_await pair.links(1).UntilRoom(2, 0);
    EXPECT_TRUE(room);
    EXPECT_TRUE(pair.links(1).Send(2, 0, i, Data(i % 7 == 0 ? kMaxUnitsBytes : 300'000 * (i % 5), i)));
  }
  while (pair.handler(2).got.size() < 20) co_await Sleep(reactor, kMillisecond);
  for (uint32_t i = 0; i < 20; ++i) EXPECT_EQ(pair.handler(2).got[i].commit_lsn, i);
  co_await pair.Close();
}
TYPED_TEST(PeersOnReactor, LargeData) { this->harness_.Run(LargeData(this->harness_.reactor())); }

// -- connections

TEST(PeerLinks, ConnectAndReport) {
  PeerWorld world;
  PeerLinks& links = world.Start(1);
  world.kernel.RunFor(kSecond);
  EXPECT_FALSE(links.IsUp(2, 0));
  EXPECT_FALSE(links.WhyDown(2, 0).ok());
  EXPECT_THAT(links.WhyDown(9, 0).message(), HasSubstr("no address for reactor 0 of node 9"));
  EXPECT_FALSE(links.Send(2, 0, 1, Beat(1)));
  EXPECT_FALSE(links.Send(9, 0, 1, Beat(1)));
  EXPECT_EQ(links.metrics().refused_messages_total.value(), 2u);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  EXPECT_OK(links.WhyDown(2, 0));
  EXPECT_EQ(links.metrics().links_up.value(), 1);
}

// The pause between attempts is bounded, so a node that comes back is connected soon; and when it
// connects itself, at once.
TEST(PeerLinks, ReconnectSoonAfterARestart) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  world.Crash(2);
  ASSERT_TRUE(world.UntilDown(1, 2));
  world.kernel.RunFor(30 * kSecond);
  EXPECT_LE(world.links(1).metrics().connect_failed_total.value(), 60u);
  world.Start(2);
  const Nanos began_ns = world.kernel.now_ns();
  ASSERT_TRUE(world.UntilUp(2, 1) && world.UntilUp(1, 2));
  EXPECT_LE(world.kernel.now_ns() - began_ns, 100 * kMillisecond);
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 1; }));
}

TEST(PeerLinks, ReconnectAfterAReset) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  world.kernel.network().ResetConnections(HostOf(1), HostOf(2));
  ASSERT_TRUE(world.UntilDown(1, 2));
  EXPECT_FALSE(world.links(1).WhyDown(2, 0).ok());
  ASSERT_TRUE(world.UntilUp(1, 2));
  EXPECT_EQ(world.links(1).metrics().lost_total.value(), 1u);
}

// A host that falls silent, and a connection of which only one end knows, are found by pings (LK4).
TEST(PeerLinks, FindASilentNode) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  const Nanos cut_ns = world.kernel.now_ns();
  world.kernel.network().CutBoth(HostOf(1), HostOf(2));
  ASSERT_TRUE(world.UntilDown(1, 2));
  EXPECT_THAT(world.links(1).WhyDown(2, 0).message(), HasSubstr("did not answer a ping within 3000 ms"));
  EXPECT_LE(world.kernel.now_ns() - cut_ns, 5 * kSecond);
  ASSERT_TRUE(world.RunUntil([&] { return world.links(1).metrics().accepted.value() == 0; }));
  EXPECT_LE(world.kernel.now_ns() - cut_ns, 5 * kSecond);
  world.kernel.network().HealAll();
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
}

TEST(PeerLinks, FindAHalfOpenConnection) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  world.kernel.network().Forget(HostOf(2), HostOf(1));
  // Node 2 knows at once, and connects. What node 1 still has of it is replaced.
  ASSERT_TRUE(world.RunUntil([&] { return world.links(1).metrics().replaced_total.value() == 1; }));
  EXPECT_TRUE(world.links(1).IsUp(2, 0));  // it does not know yet
  ASSERT_TRUE(world.UntilDown(1, 2));
  ASSERT_TRUE(world.UntilUp(1, 2));
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 1; }));
}

// Bytes of a dead process that arrive late are not taken once its successor was seen (LK2).
TEST(PeerLinks, NothingOfAnOlderProcessAfterItsSuccessor) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  world.kernel.network().Hold(HostOf(2), HostOf(1), world.kernel.now_ns() + 2 * kSecond);
  for (Lsn i = 0; i < 10; ++i) ASSERT_TRUE(world.links(2).Send(1, 0, 1, Beat(1, 1)));
  world.kernel.RunFor(10 * kMillisecond);
  world.Crash(2);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(2, 1));
  ASSERT_TRUE(world.links(2).Send(1, 0, 1, Beat(1, 2)));
  world.kernel.RunFor(4 * kSecond);
  ASSERT_EQ(world.handler(1).got.size(), 1u);
  EXPECT_EQ(world.handler(1).got[0].commit_lsn, 2u);
  EXPECT_GE(world.links(1).metrics().replaced_total.value(), 1u);
  // The link to the dead process was given up for one to its successor.
  EXPECT_TRUE(world.links(1).IsUp(2, 0));
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 1; }));
}

// What the topology says of a later process is enough.
TEST(PeerLinks, AnIncarnationIsHeardOf) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  world.links(1).SawIncarnation(2, 1);  // no news
  world.kernel.RunFor(100 * kMillisecond);
  EXPECT_TRUE(world.links(1).IsUp(2, 0));
  world.links(1).SawIncarnation(2, 2);
  ASSERT_TRUE(world.UntilDown(1, 2) && world.UntilDown(2, 1));
  world.kernel.RunFor(kSecond);
  EXPECT_FALSE(world.links(1).IsUp(2, 0));
  EXPECT_THAT(world.links(1).WhyDown(2, 0).message(), HasSubstr("process 1 of the node answers"));
  EXPECT_THAT(world.links(2).WhyDown(1, 0).message(),
              HasSubstr("refuses this node: the hello is of process 1 of node 2, but node 1 has seen its process 2"));
  EXPECT_EQ(world.links(1).metrics().accepted.value(), 0);
}

// -- versions

TEST(PeerLinks, SpeakTheActiveVersion) {
  PeerWorld world;
  PeerOptions both = world.options, old = world.options;
  both.protocol_min = 1;
  both.protocol_max = 2;
  both.protocol = 1;
  old.protocol_min = old.protocol_max = old.protocol = 1;
  world.StartWith(1, both);
  world.StartWith(2, old);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 1; }));
  // The active version is raised, although a node cannot follow.
  world.links(1).SetProtocol(2);
  ASSERT_TRUE(world.UntilDown(1, 2));
  world.kernel.RunFor(kSecond);
  EXPECT_THAT(world.links(1).WhyDown(2, 0).message(),
              HasSubstr("node 1 wants to speak version 2 of the peer protocol (its build speaks 1 to 2), but the build "
                        "of node 2 speaks 1 to 1"));
  EXPECT_TRUE(world.links(2).IsUp(1, 0));
  world.links(2).SetProtocol(2);
  world.kernel.RunFor(kSecond);
  EXPECT_THAT(world.links(2).WhyDown(1, 0).message(), HasSubstr("this build speaks only 1 to 1"));
  // Its build is replaced.
  world.Stop(2);
  both.protocol = 2;
  world.StartWith(2, both);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(2, 1));
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 1; }));
}

// -- addresses

TEST(PeerLinks, FollowTheTopology) {
  PeerWorld world(1, 3);
  for (NodeId node = 1; node <= 3; ++node) world.Start(node);
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(1, 3) && world.UntilUp(3, 1));
  std::map<NodeId, std::vector<std::string>> addresses = world.Addresses();
  const uint64_t connected = world.links(1).metrics().connected_total.value();
  EXPECT_OK(world.links(1).SetAddresses(addresses));
  world.kernel.RunFor(kSecond);
  EXPECT_EQ(world.links(1).metrics().connected_total.value(), connected) << "what stays is not touched";

  addresses[2] = {"10.0.0.2:7000x"};
  EXPECT_THAT(world.links(1).SetAddresses(addresses).message(), HasSubstr("node 2, reactor 0"));
  EXPECT_TRUE(world.links(1).IsUp(2, 0)) << "an error changes nothing";

  // Node 3 is removed: it is not heard, and not spoken to.
  addresses = world.Addresses();
  addresses.erase(3);
  EXPECT_OK(world.links(1).SetAddresses(addresses));
  EXPECT_FALSE(world.links(1).Send(3, 0, 1, Beat(1)));
  ASSERT_TRUE(world.UntilDown(3, 1));
  world.kernel.RunFor(kSecond);
  EXPECT_THAT(world.links(3).WhyDown(1, 0).message(), HasSubstr("the topology that node 1 sees has no other node 3"));
  EXPECT_EQ(world.links(1).metrics().links.value(), 1);

  // Node 2 moves to where nobody is, and back. A node without an address may still speak.
  addresses[2] = {AddressOf(2, 5)};
  EXPECT_OK(world.links(1).SetAddresses(addresses));
  world.kernel.RunFor(kSecond);
  EXPECT_FALSE(world.links(1).IsUp(2, 0));
  addresses[2] = {};
  EXPECT_OK(world.links(1).SetAddresses(addresses));
  EXPECT_TRUE(world.RunUntil([&] { return world.links(1).metrics().links.value() == 0; }));
  EXPECT_TRUE(world.links(2).Send(1, 0, 1, Beat(1)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(1).got.size() == 1; }));
  EXPECT_OK(world.links(1).SetAddresses(world.Addresses()));
  ASSERT_TRUE(world.UntilUp(1, 2) && world.UntilUp(3, 1));
}

// The handler may learn from a message that its sender is out.
TEST(PeerLinks, AddressesMayChangeWithinAMessage) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(2, 1) && world.UntilUp(1, 2));
  world.handler(1).on_message = [&](NodeId, const Message&) {
    EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
    EXPECT_OK(world.links(1).SetAddresses({}));
  };
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(world.links(2).Send(1, 0, 1, Beat(1)));
  ASSERT_TRUE(world.RunUntil([&] { return !world.handler(1).got.empty(); }));
  world.kernel.RunFor(kSecond);
  EXPECT_EQ(world.handler(1).got.size(), 1u);
}

// -- room

Task<void> WaitForRoom(PeerLinks* links, int* state) {
  *state = 1;
  const bool room = co_await links->UntilRoom(2, 0);
  *state = room ? 2 : 3;
}

// Whoever waits for room learns that the link is lost: nobody else may ever wake it.
TEST(PeerLinks, UntilRoomEndsWithTheLink) {
  PeerWorld world;
  world.Start(1);
  int state = 0;
  TaskGroup tasks;
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  EXPECT_EQ(state, 3) << "there is no link yet";
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  EXPECT_EQ(state, 2);
  world.machines[1]->Pause(60 * kSecond);
  while (world.links(1).Send(2, 0, 1, Data(50'000))) {
  }
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  world.kernel.RunFor(kMillisecond);
  ASSERT_EQ(state, 1);
  ASSERT_TRUE(world.UntilDown(1, 2)) << "its peer is silent";
  world.kernel.RunFor(kMillisecond);
  EXPECT_EQ(state, 3);
  world.Stop(1);
}

// A node that is not read from takes data up to the limit; then it is refused until there is room.
// The same when it is the peer's end that ends it, and nothing answers any more.
TEST(PeerLinks, UntilRoomEndsWhenThePeerHasGone) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  world.kernel.network().SetLatency(HostOf(1), HostOf(2), kSecond, kSecond);
  while (world.links(1).Send(2, 0, 1, Data(50'000))) {
  }
  int state = 0;
  TaskGroup tasks;
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  world.kernel.RunFor(kMillisecond);
  ASSERT_EQ(state, 1);
  world.Crash(2);
  ASSERT_TRUE(world.UntilDown(1, 2));
  world.kernel.RunFor(kMillisecond);
  EXPECT_EQ(state, 3);
}

TEST(PeerLinks, WhatWaitsIsBounded) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  world.machines[1]->Pause(2 * kSecond);
  size_t taken = 0;
  for (int i = 0; i < 1000; ++i) {
    for (int j = 0; j < 10; ++j) taken += world.links(1).Send(2, 0, 1, Data(50'000)) ? 50'000 : 0;
    world.kernel.RunFor(kMillisecond);
  }
  const PeerOptions& options = world.options;
  EXPECT_GE(taken, options.max_queue_bytes);
  EXPECT_LE(taken, options.max_queue_bytes + 2 * options.max_handed_bytes + (1u << 20));
  EXPECT_LE(world.budget(1).used_bytes(),
            static_cast<int64_t>(options.max_queue_bytes + 2 * options.max_handed_bytes + (1u << 20)));
  EXPECT_GT(world.links(1).metrics().refused_messages_total.value(), 0u);
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1))) << "data does not take the room of heartbeats";
  int state = 0;
  TaskGroup tasks;
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  EXPECT_EQ(state, 1);
  ASSERT_TRUE(world.RunUntil([&] { return state == 2; }));
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Data(50'000)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == taken / 50'000 + 2; }));
}

// Heartbeats do not wait behind the data that waits here.
// A link that always has something to send, at the rate at which the other side takes it.
TEST(PeerLinks, WhatHasLeftIsNotReservedAnyMore) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  world.kernel.network().SetLatency(HostOf(1), HostOf(2), 20 * kMillisecond, 20 * kMillisecond);
  for (int i = 0; i < 1000; ++i) {
    while (world.links(1).Send(2, 0, 1, Data(50'000))) {
    }
    world.links(1).Send(2, 0, 1, Beat(1));
    world.kernel.RunFor(2 * kMillisecond);
  }
  EXPECT_TRUE(world.links(1).IsUp(2, 0));
  EXPECT_GT(world.links(1).metrics().sent_bytes_total.value(), 10u << 20);
  EXPECT_LT(world.budget(1).used_bytes(), 4 << 20);
}

TEST(PeerLinks, ControlOvertakesData) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  world.machines[1]->Pause(kSecond);
  size_t data = 0;
  while (world.links(1).Send(2, 0, 1, Data(30'000))) ++data;
  world.kernel.RunFor(100 * kMillisecond);
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  ASSERT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == data + 1; }));
  size_t at = 0;
  while (world.handler(2).got[at].kind != 0) ++at;
  // Only what the two sockets have may be ahead of it.
  EXPECT_LE(at * 30'000, world.options.max_handed_bytes + world.kernel.options().socket_window_bytes + 100'000);
  EXPECT_LT(at, data / 2);
}

TEST(PeerLinks, WithoutMemoryDataIsRefused) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  const int64_t all = world.budget(1).limit_bytes() - world.budget(1).used_bytes();
  ASSERT_TRUE(world.budget(1).TryReserve(all));
  // What the account of the reactor still has is used up first.
  while (world.links(1).Send(2, 0, 1, Data(60'000))) {
  }
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Beat(1))) << "heartbeats may use what is kept for an overload";
  int state = 0;
  TaskGroup tasks;
  tasks.Spawn(WaitForRoom(&world.links(1), &state));
  EXPECT_EQ(state, 1) << "whoever waits must not try again at once";
  ASSERT_TRUE(world.RunUntil([&] { return state == 2; }));
  world.budget(1).Release(all);
  EXPECT_TRUE(world.links(1).Send(2, 0, 1, Data(60'000)));
}

// What has no memory at its receiver is lost, but the connection stays.
TEST(PeerLinks, WithoutMemoryDataIsNotReceived) {
  PeerWorld world;
  world.Start(1);
  world.Start(2);
  ASSERT_TRUE(world.UntilUp(1, 2));
  const int64_t all = world.budget(2).limit_bytes() - world.budget(2).used_bytes();
  ASSERT_TRUE(world.budget(2).TryReserve(all));
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Data(1 << 20)));
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Beat(1)));
  world.kernel.RunFor(kSecond);
  ASSERT_EQ(world.handler(2).got.size(), 1u);
  EXPECT_EQ(world.handler(2).got[0].kind, 0u);
  EXPECT_EQ(world.links(2).metrics().dropped_frames_total.value(), 1u);
  world.budget(2).Release(all);
  ASSERT_TRUE(world.links(1).Send(2, 0, 1, Data(1 << 20)));
  EXPECT_TRUE(world.RunUntil([&] { return world.handler(2).got.size() == 2; }));
}

// -- everything at once

// Random faults on three nodes. Of one process of a sender, the messages arrive in order and none
// twice; nothing of a process arrives after something of its successor; in the end all is connected.
class RandomFaults {
 public:
  explicit RandomFaults(uint64_t seed) : random_(seed), world_(seed, 3) {}
  void Run() {
    for (NodeId node = 1; node <= 3; ++node) {
      world_.Start(node);
      Listen(node);
    }
    for (int step = 0; step < 150; ++step) {
      Step();
      world_.kernel.RunFor(random_.Between(0, random_.Chance(0.1) ? kSecond : 20 * kMillisecond));
    }
    world_.kernel.network().HealAll();
    for (NodeId node = 1; node <= 3; ++node) {
      if (!world_.processes[node - 1]) Restart(node);
    }
    for (NodeId from = 1; from <= 3; ++from) {
      for (NodeId to = 1; to <= 3; ++to) {
        if (from == to) continue;
        ASSERT_TRUE(world_.UntilUp(from, to)) << from << " to " << to;
      }
    }
  }

 private:
  // A heartbeat says which process sent it, and is numbered.
  static constexpr uint64_t kPerProcess = 1u << 20;

  void Listen(NodeId node) {
    auto last = std::make_shared<std::map<NodeId, Lsn>>();
    world_.handler(node).on_message = [last](NodeId from, const Message& message) {
      Lsn& newest = (*last)[from];
      if (!IsControl(message)) return;
      EXPECT_GT(CommitOf(message), newest);
      newest = CommitOf(message);
    };
  }
  void Restart(NodeId node) {
    world_.Start(node);
    Listen(node);
  }
  void Step() {
    const NodeId a = 1 + static_cast<NodeId>(random_.Below(3));
    const NodeId b = 1 + (a + static_cast<NodeId>(random_.Below(2))) % 3;
    SimNetwork& network = world_.kernel.network();
    switch (random_.Below(20)) {
      case 0: network.ResetConnections(HostOf(a), HostOf(b)); break;
      case 1: network.Forget(HostOf(a), HostOf(b)); break;
      case 2: network.Cut(HostOf(a), HostOf(b)); break;
      case 3: network.HealAll(); break;
      case 4: network.Hold(HostOf(a), HostOf(b), world_.kernel.now_ns() + kSecond); break;
      case 5:
        if (world_.processes[a - 1]) world_.Crash(a, random_.Chance(0.5));
        break;
      case 6:
        if (!world_.processes[a - 1]) Restart(a);
        break;
      case 7:
        if (world_.processes[a - 1]) world_.machines[a - 1]->Pause(random_.Between(0, 4 * kSecond));
        break;
      default: SendSome(a, b);
    }
  }
  void SendSome(NodeId a, NodeId b) {
    if (!world_.processes[a - 1]) return;
    const size_t count = random_.Below(30);
    for (size_t i = 0; i < count; ++i) {
      const Lsn number = world_.incarnations[a - 1] * kPerProcess + ++number_;
      const bool data = random_.Chance(0.3);
      (void)world_.links(a).Send(b, 0, 1, data ? Data(random_.Below(200'000), number) : Beat(1, number));
    }
  }

  SimRandom random_;
  PeerWorld world_;
  uint64_t number_ = 0;
};

TEST(PeerLinks, SurviveRandomFaults) {
  for (uint64_t seed : Seeds(30)) {
    SCOPED_TRACE(Replay(seed));
    RandomFaults(seed).Run();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace pando::replication
