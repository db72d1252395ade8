// PeerLinks and others that speak to them as they like: strangers, guards, old processes, garbage,
// ends that stop in the middle, and ends that do not read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/codec.h"
#include "src/io/connection_budget.h"
#include "src/replication/peer_links.h"
#include "tests/unit/replication/peer_harness.h"

namespace pando::replication {
namespace {

using testing::HasSubstr;

// Node 1, and a machine at the address of node 2 that does as it likes.
class PeerStranger : public testing::Test {
 protected:
  PeerStranger() : world_(1, 1), raw_(world_.kernel, HostOf(2)) {
    world_.extra_addresses[2] = {};
    world_.extra_addresses[3] = {};
  }
  void TearDown() override {
    raw_.on_frame = nullptr;
    for (const auto& end : raw_.ends) end->on_frame = nullptr;
    if (world_.processes[0]) world_.Stop(1);
  }
  PeerLinks& Start() { return world_.Start(1); }
  // Node 1 also connects to node 2.
  PeerLinks& StartWithLink() {
    world_.extra_addresses[2] = {AddressOf(2)};
    return world_.Start(1);
  }
  const PeerMetrics& metrics() { return world_.links(1).metrics(); }
  // A connection of node 2 (or its guard) that is accepted.
  RawEnd* Accepted(const PeerHello& hello) {
    RawEnd* end = raw_.Connect(HostOf(1));
    end->Send(HelloFrame(hello));
    EXPECT_TRUE(world_.RunUntil([&] { return end->reply().has_value(); }));
    EXPECT_EQ(end->reply()->verdict, HelloVerdict::kAccepted) << end->reply()->reason;
    return end;
  }
  RawEnd* Accepted(uint64_t incarnation = 1) { return Accepted(HelloOf(2, 1, incarnation)); }
  bool UntilClosed(RawEnd* end) {
    return world_.RunUntil([end] { return end->closed; });
  }

  PeerWorld world_;
  RawMachine raw_;
};

PeerHello GuardOf(NodeId node, uint64_t incarnation) {
  PeerHello hello = HelloOf(node, 1, incarnation);
  hello.guard = true;
  return hello;
}

// -- hellos

TEST_F(PeerStranger, RefusedHellosSayWhy) {
  Start();
  (void)Accepted(/*incarnation=*/5);
  const auto with = [](auto change) {
    PeerHello hello = HelloOf(2, 1, 5);
    change(&hello);
    return hello;
  };
  const struct {
    PeerHello hello;
    HelloVerdict verdict;
    std::string why;
  } cases[] = {
      {with([](PeerHello* h) {
         h->cluster_id = Uuid{1, 2};
       }),
       HelloVerdict::kOtherCluster,
       "node 2 is of cluster 00000000-0000-0001-0000-000000000002, but this is node 1 of cluster"},
      {with([](PeerHello* h) { h->to = 3; }), HelloVerdict::kOtherNode,
       "for node 3, reactor 0, but this is node 1, reactor 0"},
      {with([](PeerHello* h) { h->to_reactor = 1; }), HelloVerdict::kOtherNode, "for node 1, reactor 1"},
      {with([](PeerHello* h) { h->from = 9; }), HelloVerdict::kUnknownNode, "no other node 9"},
      {with([](PeerHello* h) { h->from = 1; }), HelloVerdict::kUnknownNode, "no other node 1"},
      {with([](PeerHello* h) { h->incarnation = 4; }), HelloVerdict::kOldIncarnation,
       "process 4 of node 2, but node 1 has seen its process 5"},
      {with([](PeerHello* h) { h->protocol = kProtocolMax + 1; }), HelloVerdict::kNoProtocol, "wants to speak version"},
      {with([](PeerHello* h) { h->protocol = kProtocolMin - 1; }), HelloVerdict::kNoProtocol, "wants to speak version"},
  };
  uint64_t refused = 0;
  for (const auto& c : cases) {
    RawEnd* end = raw_.Connect(HostOf(1));
    end->Send(HelloFrame(c.hello) + MessagesFrame({Beat(1)}));
    ASSERT_TRUE(UntilClosed(end)) << c.why;
    ASSERT_TRUE(end->reply()) << c.why;
    EXPECT_EQ(end->reply()->verdict, c.verdict) << end->reply()->reason;
    EXPECT_THAT(end->reply()->reason, HasSubstr(c.why));
    EXPECT_EQ(metrics().refused_total.value(), ++refused);
  }
  EXPECT_TRUE(world_.handler(1).got.empty());
  EXPECT_EQ(metrics().accepted.value(), 1);
}

// Nobody can claim a process that the topology does not know, or more reactors than the node has; and what a
// hello claims is forgotten with its connection.
TEST_F(PeerStranger, ClaimsAreBoundedAndPass) {
  world_.extra_addresses[2] = {AddressOf(2), ""};
  PeerLinks& links = world_.Start(1);
  links.SetStarts({{2, 5}, {3, 0}});
  const auto verdict = [&](NodeId from, uint64_t incarnation, uint32_t reactor, bool guard) {
    PeerHello hello = HelloOf(from, 1, incarnation);
    hello.from_reactor = reactor;
    hello.guard = guard;
    RawEnd* end = raw_.Connect(HostOf(1));
    end->Send(HelloFrame(hello));
    EXPECT_TRUE(world_.RunUntil([&] { return end->reply().has_value(); }));
    const HelloVerdict answer = end->reply()->verdict;
    end->Close();
    world_.kernel.RunFor(10 * kMillisecond);
    return answer;
  };
  for (bool guard : {false, true}) {
    EXPECT_EQ(verdict(2, UINT64_MAX, 0, guard), HelloVerdict::kUnknownNode);
    EXPECT_EQ(verdict(2, 5 + links.options().max_starts_ahead + 1, 0, guard), HelloVerdict::kUnknownNode);
    EXPECT_EQ(verdict(2, 5, 2, guard), HelloVerdict::kUnknownNode);
    EXPECT_EQ(verdict(2, 5, UINT32_MAX, guard), HelloVerdict::kUnknownNode);
    EXPECT_EQ(verdict(3, 5, links.options().max_reactors, guard), HelloVerdict::kUnknownNode);
  }
  EXPECT_EQ(verdict(2, 6, 1, false), HelloVerdict::kAccepted) << "the news of the topology may be late";
  EXPECT_EQ(verdict(2, 5, 0, false), HelloVerdict::kAccepted) << "process 6 is not connected any more";
  EXPECT_EQ(verdict(3, UINT64_MAX, 0, false), HelloVerdict::kAccepted) << "nothing is known of this node";
  EXPECT_EQ(verdict(3, 1, 0, false), HelloVerdict::kAccepted);
}

TEST_F(PeerStranger, HelloAndMessagesInOne) {
  Start();
  RawEnd* end = raw_.Connect(HostOf(1));
  end->Send(HelloFrame(HelloOf(2, 1)) + MessagesFrame({Beat(1, 10), Beat(1, 11)}, 9) + MessagesFrame({Data(5, 12)}));
  ASSERT_TRUE(world_.RunUntil([&] { return world_.handler(1).got.size() == 3; }));
  EXPECT_EQ(world_.handler(1).got[1].partition, 9u);
  EXPECT_EQ(world_.handler(1).got[1].from, 2u);
  EXPECT_EQ(world_.handler(1).got[2].commit_lsn, 12u);
  EXPECT_FALSE(end->closed);
}

// A newer connection of the same reactor replaces the older one, and a newer process all of the older
// one's (LK2).
TEST_F(PeerStranger, NewerConnectionsReplaceOlderOnes) {
  Start();
  RawEnd* first = Accepted(1);
  PeerHello other = HelloOf(2, 1, 1);
  other.from_reactor = 1;
  RawEnd* other_reactor = Accepted(other);
  RawEnd* node3 = Accepted(HelloOf(3, 1, 1));
  EXPECT_EQ(metrics().accepted.value(), 3);
  RawEnd* second = Accepted(1);
  first->Send(MessagesFrame({Beat(1, 1)}));
  ASSERT_TRUE(UntilClosed(first));
  EXPECT_FALSE(other_reactor->closed);
  RawEnd* third = Accepted(2);
  second->Send(MessagesFrame({Beat(1, 2)}));
  other_reactor->Send(MessagesFrame({Beat(1, 3)}));
  ASSERT_TRUE(UntilClosed(second) && UntilClosed(other_reactor));
  third->Send(MessagesFrame({Beat(1, 4)}));
  node3->Send(MessagesFrame({Beat(1, 5)}));
  ASSERT_TRUE(world_.RunUntil([&] { return world_.handler(1).got.size() >= 2; }));
  world_.kernel.RunFor(10 * kMillisecond);
  ASSERT_EQ(world_.handler(1).got.size(), 2u);
  for (const Recorder::Got& got : world_.handler(1).got) EXPECT_GE(got.commit_lsn, 4u);
  EXPECT_EQ(metrics().replaced_total.value(), 3u);
}

// A process that says the name of one that is heard must wait: its hello counts only once the other is silent, or
// ends (LK2).
TEST_F(PeerStranger, AConnectionThatIsHeardIsNotReplaced) {
  Start();
  RawEnd* node = Accepted(3);
  const auto live = [&](Nanos for_ns) {
    const Nanos until_ns = world_.kernel.now_ns() + for_ns;
    while (world_.kernel.now_ns() < until_ns) {
      node->Send(EmptyFrame(PeerFrame::kPing));
      world_.kernel.RunFor(world_.options.ping_period_ns);
    }
  };
  for (int i = 0; i < 50; ++i) {
    RawEnd* other = raw_.Connect(HostOf(1));
    other->Send(HelloFrame(HelloOf(2, 1, 3)) + MessagesFrame({Beat(1, 99)}));
    live(world_.options.ping_period_ns / 5);
    EXPECT_FALSE(node->closed);
    EXPECT_FALSE(other->reply());
    EXPECT_LE(metrics().strangers.value(), world_.options.max_strangers);
  }
  live(world_.options.hello_limit_ns);
  EXPECT_EQ(metrics().strangers.value(), 0) << "none waits for ever";
  EXPECT_THAT(world_.handler(1).connected, testing::SizeIs(1));
  EXPECT_EQ(metrics().replaced_total.value(), 0u);
  EXPECT_TRUE(world_.handler(1).got.empty());

  // The process has lost its connection, and connects anew before this side knows.
  RawEnd* again = raw_.Connect(HostOf(1));
  again->Send(HelloFrame(HelloOf(2, 1, 3)));
  world_.kernel.RunFor(20 * kMillisecond);
  EXPECT_FALSE(again->reply());
  node->Close();
  ASSERT_TRUE(world_.RunUntil([&] { return again->reply().has_value(); }, 20 * kMillisecond));
  again->Send(MessagesFrame({Beat(1, 7)}));
  ASSERT_TRUE(world_.RunUntil([&] { return world_.handler(1).got.size() == 1; }));
  EXPECT_EQ(world_.handler(1).got[0].commit_lsn, 7u);

  // The end of that connection is never heard of.
  RawEnd* third = raw_.Connect(HostOf(1));
  third->Send(HelloFrame(HelloOf(2, 1, 3)));
  const Nanos limit_ns = 2 * world_.options.ping_period_ns + world_.options.ping_period_ns / 2;
  ASSERT_TRUE(world_.RunUntil([&] { return third->reply().has_value(); }, limit_ns));
  EXPECT_TRUE(UntilClosed(again));
  EXPECT_EQ(metrics().replaced_total.value(), 1u);
  // A later process need not wait.
  RawEnd* later = raw_.Connect(HostOf(1));
  later->Send(HelloFrame(HelloOf(2, 1, 4)));
  ASSERT_TRUE(world_.RunUntil([&] { return later->reply().has_value(); }, 20 * kMillisecond));
  EXPECT_THAT(world_.handler(1).connected, testing::SizeIs(4));
}

// -- guards

TEST_F(PeerStranger, AGuardSendsItsNotice) {
  Start();
  RawEnd* node = Accepted(7);
  RawEnd* guard = raw_.Connect(HostOf(1));
  guard->Send(HelloFrame(GuardOf(2, 7)) + DeathNoticeFrame(2, 7));
  ASSERT_TRUE(world_.RunUntil([&] { return !world_.handler(1).deaths.empty(); }));
  EXPECT_EQ(world_.handler(1).deaths[0], (std::pair<NodeId, uint64_t>(2, 7)));
  EXPECT_FALSE(node->closed) << "a guard does not replace its node";
  EXPECT_EQ(metrics().replaced_total.value(), 0u);
  ASSERT_TRUE(UntilClosed(guard)) << "it has nothing more to say";
  // A guard that names a later process does not make the node an older one.
  RawEnd* later = raw_.Connect(HostOf(1));
  later->Send(HelloFrame(GuardOf(2, 9)) + EmptyFrame(PeerFrame::kPing));
  ASSERT_TRUE(world_.RunUntil([&] { return later->frames.size() == 2; }));
  EXPECT_FALSE(node->closed);
  RawEnd* latest = raw_.Connect(HostOf(1));
  latest->Send(HelloFrame(GuardOf(2, 9)) + EmptyFrame(PeerFrame::kPing));
  ASSERT_TRUE(UntilClosed(later)) << "a node has one guard";
}

TEST_F(PeerStranger, AGuardMayDoNothingElse) {
  Start();
  const struct {
    PeerHello hello;
    std::string frame;
  } cases[] = {
      {GuardOf(2, 1), MessagesFrame({Beat(1)})},
      {GuardOf(2, 1), DeathNoticeFrame(3, 1)},  // of another node
      {GuardOf(2, 1), DeathNoticeFrame(2, 2)},  // of another process
      {HelloOf(2, 1), DeathNoticeFrame(2, 1)},  // from the node itself
  };
  for (const auto& c : cases) {
    RawEnd* end = Accepted(c.hello);
    end->Send(c.frame);
    ASSERT_TRUE(UntilClosed(end));
  }
  EXPECT_EQ(metrics().garbage_total.value(), std::size(cases));
  EXPECT_TRUE(world_.handler(1).got.empty());
  EXPECT_TRUE(world_.handler(1).deaths.empty());
}

// -- strangers

TEST_F(PeerStranger, StrangersHaveLittleTimeAndMemory) {
  Start();
  const int64_t before = world_.budget(1).used_bytes();
  RawEnd* silent = raw_.Connect(HostOf(1));
  RawEnd* slow = raw_.Connect(HostOf(1));
  const std::string hello = HelloFrame(HelloOf(2, 1));
  const Nanos began_ns = world_.kernel.now_ns();
  for (size_t at = 0; at < hello.size() && !slow->closed; ++at) {  // 100 ms for each byte
    slow->Send(hello.substr(at, 1));
    world_.kernel.RunFor(100 * kMillisecond);
  }
  EXPECT_TRUE(silent->closed && slow->closed);
  EXPECT_LE(world_.kernel.now_ns() - began_ns, 9 * kSecond);
  EXPECT_EQ(metrics().timeout_total.value(), 2u);
  EXPECT_EQ(metrics().accepted_total.value(), 0u);
  // One that announces much gets nothing for it.
  RawEnd* large = raw_.Connect(HostOf(1));
  large->Send(MessagesFrame({Data(1 << 20)}).substr(0, 600));
  ASSERT_TRUE(UntilClosed(large));
  EXPECT_LE(world_.budget(1).used_bytes(), before + BudgetAccount::kChunkBytes);
}

// However many strangers there are, a node gets in, and they keep few places.
TEST_F(PeerStranger, StrangersDoNotKeepNodesOut) {
  ConnectionBudgets budgets({0, 16, 0});
  world_.budgets = &budgets;
  Start();
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 20; ++i) (void)raw_.Connect(HostOf(1));
    EXPECT_LE(metrics().strangers.value(), world_.options.max_strangers);
  }
  (void)Accepted(1);
  EXPECT_GT(metrics().displaced_total.value(), 0u);
  EXPECT_LE(budgets.of(ListenerKind::kPeer).in_use(), world_.options.max_strangers + 1);
  world_.kernel.RunFor(4 * kSecond);
  EXPECT_EQ(metrics().strangers.value(), 0);
  world_.Stop(1);
  EXPECT_EQ(budgets.of(ListenerKind::kPeer).in_use(), 0);
  world_.budgets = nullptr;
}

// -- garbage

TEST_F(PeerStranger, GarbageEndsAConnection) {
  Start();
  const std::string hello = HelloFrame(HelloOf(2, 1));
  const std::string beat = MessagesFrame({Beat(1, 1)});
  const auto flipped = [](std::string frame, size_t at) {
    frame[at] = static_cast<char>(frame[at] ^ 1);
    return frame;
  };
  const auto framed = [](PeerFrame kind, std::string body) {
    std::string frame;
    BeginFrame(&frame);
    frame += body;
    SealFrame(kind, &frame);
    return frame;
  };
  const auto sized = [&](uint32_t bytes) {
    std::string frame = beat;
    StoreLE(frame.data(), bytes);
    return frame;
  };
  Message from_nobody = Beat(1);
  from_nobody.from = {};
  const struct {
    const char* what;
    std::string bytes;
    size_t messages;  // that are taken before
  } cases[] = {
      {"an HTTP request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
      {"framed Thrift", std::string("\0\0\0\x20\x80\x01\0\1\0\0\0\5hello", 17), 0},
      {"messages before the hello", beat, 0},
      {"a ping before the hello", EmptyFrame(PeerFrame::kPing), 0},
      {"a death notice before the hello", DeathNoticeFrame(2, 1), 0},
      {"a hello that is none", framed(PeerFrame::kHello, std::string(64, 'x')), 0},
      {"a flipped bit in the hello", flipped(hello, 30), 0},
      {"two hellos", hello + hello, 0},
      {"an answer to no hello", hello + HelloReplyFrame({}), 0},
      {"a pong to no ping", hello + EmptyFrame(PeerFrame::kPong), 0},
      {"a ping with a body", hello + framed(PeerFrame::kPing, "x"), 0},
      {"a flipped bit in a message", hello + beat + flipped(beat, 70), 1},
      {"a flipped bit in a checksum", hello + beat + flipped(beat, 9), 1},
      {"an unknown kind", hello + flipped(EmptyFrame(PeerFrame::kPong), 4) + beat, 0},
      {"a frame that is too long", hello + sized(kMaxPeerFrameBytes + 1), 0},
      {"a frame without end", hello + sized(UINT32_MAX), 0},
      {"a message that is none", hello + beat + framed(PeerFrame::kMessages, std::string(100, 'x')), 1},
      {"a part of a message", hello + framed(PeerFrame::kMessages, beat.substr(16, 60)), 0},
      {"a message from nobody", hello + MessagesFrame({Beat(1), from_nobody, Beat(1)}), 1},
      {"a death notice of nobody", HelloFrame(GuardOf(2, 1)) + DeathNoticeFrame(0, 1), 0},
  };
  uint64_t garbage = 0;
  for (const auto& c : cases) {
    world_.handler(1).got.clear();
    RawEnd* end = raw_.Connect(HostOf(1));
    end->Send(c.bytes + beat);
    ASSERT_TRUE(UntilClosed(end)) << c.what;
    EXPECT_EQ(metrics().garbage_total.value(), ++garbage) << c.what;
    EXPECT_EQ(world_.handler(1).got.size(), c.messages) << c.what;
  }
  EXPECT_TRUE(world_.handler(1).deaths.empty());
  EXPECT_EQ(metrics().accepted.value(), 0);
}

// The same from the other end of a link.
TEST_F(PeerStranger, GarbageOnALink) {
  const std::string ok = HelloReplyFrame({});
  const std::string answers[] = {
      "HTTP/1.1 400 Bad Request\r\n\r\n", EmptyFrame(PeerFrame::kPong),  ok + ok,
      ok + EmptyFrame(PeerFrame::kPong),  ok + MessagesFrame({Beat(1)}), ok + EmptyFrame(PeerFrame::kPing),
      ok + DeathNoticeFrame(2, 1)};
  size_t next = 0;
  raw_.on_frame = [&](PeerFrame kind, RawEnd* end) {
    if (kind == PeerFrame::kHello && next < std::size(answers)) end->Send(answers[next++]);
  };
  StartWithLink();
  ASSERT_TRUE(world_.RunUntil([&] { return metrics().garbage_total.value() == std::size(answers); }));
  EXPECT_TRUE(world_.handler(1).got.empty());
  EXPECT_TRUE(world_.handler(1).deaths.empty());
  // One that says nothing at all is given up too (LK4).
  ASSERT_TRUE(world_.RunUntil([&] { return metrics().timeout_total.value() == 1; }));
  EXPECT_THAT(world_.links(1).WhyDown(2, 0).message(), HasSubstr("did not answer the hello within 3000 ms"));
}

// -- ends that stop

// The other end closes, or resets, after any number of the bytes that it wanted to send.
TEST_F(PeerStranger, ItEndsAtAnyMoment) {
  Start();
  const std::string stream = HelloFrame(HelloOf(2, 1)) + MessagesFrame({Beat(1, 1)}) + MessagesFrame({Data(100, 2)}) +
                             EmptyFrame(PeerFrame::kPing);
  const size_t first = HelloFrame(HelloOf(2, 1)).size() + MessagesFrame({Beat(1, 1)}).size();
  const size_t second = first + MessagesFrame({Data(100, 2)}).size();
  for (bool now : {false, true}) {
    for (size_t length = 0; length <= stream.size(); ++length) {
      world_.handler(1).got.clear();
      RawEnd* end = raw_.Connect(HostOf(1));
      end->Send(stream.substr(0, length));
      if (now) world_.kernel.RunFor(kMillisecond);
      end->Close(now);
      ASSERT_TRUE(world_.RunUntil([&] { return world_.kernel.network().connections() == 0; })) << length;
      EXPECT_EQ(world_.handler(1).got.size(), size_t{length >= first} + size_t{length >= second}) << length;
    }
  }
  EXPECT_EQ(metrics().garbage_total.value(), 0u);
  EXPECT_EQ(metrics().accepted.value() + metrics().strangers.value(), 0);
}

TEST_F(PeerStranger, ALinkEndsAtAnyMoment) {
  const std::string answer = HelloReplyFrame({});
  size_t length = 0;
  uint64_t hellos = 0;
  raw_.on_frame = [&](PeerFrame kind, RawEnd* end) {
    if (kind != PeerFrame::kHello) return;
    ++hellos;
    end->Send(answer.substr(0, length));
    end->Close(/*now=*/false);
    length = (length + 1) % (answer.size() + 1);
  };
  StartWithLink();
  ASSERT_TRUE(world_.RunUntil([&] { return hellos > answer.size() + 1; }, 200 * kSecond));
  EXPECT_EQ(metrics().connected_total.value(), 1u);
  EXPECT_EQ(metrics().lost_total.value(), 1u);
  EXPECT_EQ(metrics().links_up.value(), 0);
}

TEST_F(PeerStranger, SilenceEndsAConnection) {
  Start();
  RawEnd* silent = Accepted(1);
  PeerHello hello = HelloOf(3, 1);
  RawEnd* within = Accepted(hello);
  const std::string frame = MessagesFrame({Data(200'000)});
  const Nanos began_ns = world_.kernel.now_ns();
  within->Send(frame.substr(0, 1000));
  // It goes on, so slowly that the frame is never whole.
  for (size_t at = 1000; !within->closed && at < 2000; ++at) {
    within->Send(frame.substr(at, 1));
    world_.kernel.RunFor(100 * kMillisecond);
    EXPECT_TRUE(silent->closed || world_.kernel.now_ns() - began_ns < 5 * kSecond);
  }
  EXPECT_TRUE(within->closed);
  EXPECT_LE(world_.kernel.now_ns() - began_ns, 11 * kSecond);
  EXPECT_EQ(metrics().timeout_total.value(), 2u);
  world_.kernel.RunFor(kSecond);
  EXPECT_EQ(metrics().buffered_bytes.value(), 0);
}

// One that pings is not silent; and one that does not read the pongs does not fill memory.
TEST_F(PeerStranger, PingsKeepAConnection) {
  Start();
  RawEnd* end = Accepted(1);
  for (int i = 0; i < 20; ++i) {
    end->Send(EmptyFrame(PeerFrame::kPing));
    world_.kernel.RunFor(kSecond);
  }
  EXPECT_FALSE(end->closed);
  EXPECT_EQ(end->frames.size(), 21u);
  end->Pause();
  for (int i = 0; i < 2000; ++i) {
    std::string pings;
    for (int j = 0; j < 20; ++j) pings += EmptyFrame(PeerFrame::kPing);
    end->Send(std::move(pings));
    world_.kernel.RunFor(kMillisecond);
  }
  world_.kernel.RunFor(kMillisecond);
  end->Resume();
  world_.kernel.RunFor(100 * kMillisecond);
  // What the socket took, and the little that may wait.
  EXPECT_LE(end->received_bytes, world_.kernel.options().socket_window_bytes + (64u << 10));
}

// -- ends that do not read (apache/kvrocks#3356)

TEST_F(PeerStranger, AnEndThatDoesNotReadIsGivenUp) {
  raw_.on_frame = [](PeerFrame kind, RawEnd* end) {
    AnswerAsNode(kind, end);
    end->Pause();
  };
  PeerLinks& links = StartWithLink();
  ASSERT_TRUE(world_.UntilUp(1, 2));
  const Nanos began_ns = world_.kernel.now_ns();
  const Message data = Data(100'000), beat = Beat(1);
  int64_t most = 0;
  while (links.IsUp(2, 0)) {
    for (int i = 0; i < 100; ++i) {
      (void)links.Send(2, 0, 1, data);
      (void)links.Send(2, 0, 1, beat);
    }
    most = std::max(most, world_.budget(1).used_bytes());
    ASSERT_LT(world_.kernel.now_ns() - began_ns, 5 * kSecond);
    world_.kernel.RunFor(5 * kMillisecond);
  }
  const PeerOptions& options = world_.options;
  EXPECT_LE(most, static_cast<int64_t>(options.max_queue_bytes + options.max_control_bytes +
                                       2 * options.max_handed_bytes + (1u << 20)));
  EXPECT_THAT(links.WhyDown(2, 0).message(), HasSubstr("did not answer a ping within 3000 ms, and had not taken"));
  EXPECT_EQ(metrics().timeout_total.value(), 1u);
  EXPECT_GT(metrics().dropped_messages_total.value(), 0u);
  world_.kernel.RunFor(kSecond);
  EXPECT_EQ(metrics().buffered_bytes.value(), 0) << "what waited is dropped";
}

// One that reads a little at a time is as bad.
TEST_F(PeerStranger, AnEndThatTricklesIsGivenUp) {
  RawEnd* end = nullptr;
  raw_.on_frame = [&end](PeerFrame kind, RawEnd* e) {
    AnswerAsNode(kind, e);
    end = e;
  };
  world_.kernel.options().socket_window_bytes = 4096;
  PeerLinks& links = StartWithLink();
  ASSERT_TRUE(world_.UntilUp(1, 2));
  const Nanos began_ns = world_.kernel.now_ns();
  while (metrics().timeout_total.value() == 0) {  // it is soon connected again
    for (int i = 0; i < 100; ++i) (void)links.Send(2, 0, 1, Data(100'000));
    end->Pause();
    world_.kernel.RunFor(200 * kMillisecond);
    end->Resume();  // for one turn: at most a window
    world_.kernel.RunFor(100 * kMicrosecond);
    ASSERT_LT(world_.kernel.now_ns() - began_ns, 10 * kSecond);
  }
  EXPECT_EQ(metrics().lost_total.value(), 1u);
}

// All messages of a turn, whatever their partitions, share a frame.
TEST_F(PeerStranger, ATurnIsOneFrame) {
  raw_.on_frame = AnswerAsNode;
  PeerLinks& links = StartWithLink();
  ASSERT_TRUE(world_.UntilUp(1, 2));
  ASSERT_EQ(raw_.ends.size(), 1u);
  RawEnd* end = raw_.ends[0].get();
  ASSERT_EQ(end->frames.size(), 1u);
  for (uint32_t partition = 0; partition < 500; ++partition) ASSERT_TRUE(links.Send(2, 0, partition, Beat(1)));
  ASSERT_TRUE(world_.RunUntil([&] { return end->frames.size() == 2; }));
  MessagesReader reader(kProtocolMax, end->frames[1].second);
  for (uint32_t partition = 0; partition < 500; ++partition) {
    Result<bool> more = reader.Next();
    ASSERT_TRUE(more.ok() && *more);
    EXPECT_EQ(reader.partition, partition);
  }
  Result<bool> more = reader.Next();
  EXPECT_TRUE(more.ok() && !*more);
}

}  // namespace
}  // namespace pando::replication
