// Tests watchers over the wire protocol, with fake partitions on two simulated reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "tests/support/fake_node.h"

namespace pando {
namespace {

using testing::HasSubstr;

using ChangeOf = std::pair<std::string, bool>;  // key, removed

std::vector<ChangeOf> ChangesOf(const api::WatchReply& reply) {
  std::vector<ChangeOf> changes;
  for (const api::Change& change : reply.changes) changes.emplace_back(change.key, change.removed);
  return changes;
}

WriteOp PutOp(const std::string& key, const std::string& value = "v") {
  WriteOp op;
  op.key = key;
  op.value = value;
  return op;
}

WriteOp RemoveOp(const std::string& key) {
  WriteOp op;
  op.op = RecordOp::kRemove;
  op.key = key;
  return op;
}

class KvWatchTest : public FakeNodeTest {
 protected:
  std::unique_ptr<api::Kv_watch_result> Watch(const api::WatchRequest& request, const api::Context& context = {}) {
    api::Kv_watch_args args;
    args.context = context;
    args.request = request;
    return CallFor<api::Kv_watch_result>("watch", args);
  }
  // Returns a watch request that starts after the newest change.
  api::WatchRequest FromNow(const std::string& prefix) {
    api::WatchRequest request;
    request.prefix = prefix;
    auto reply = Watch(request);
    EXPECT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_TRUE(reply->success.changes.empty());
    request.position = reply->success.position;
    return request;
  }
  // Encodes a call that waits for one minute.
  std::string PatientCall(const std::string& prefix) {
    api::Kv_watch_args args;
    args.request = FromNow(prefix);
    args.request.wait_ms = args.context.budget_ms = 60'000;
    return EncodeCall("watch", 1, args, GetParam());
  }
  void WriteAt(Nanos time_ns, const WriteOp& op) {
    kernel_.At(time_ns, SimKernel::kNoBoot, [this, op]() mutable { node_->PartitionOf(op.key).WriteNow(op); });
  }
  int32_t ErrorOf(const api::WatchRequest& request) { return Watch(request)->error.code; }
};
INSTANTIATE_TEST_SUITE_P(Wire, KvWatchTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

TEST_P(KvWatchTest, TellsOfTheChangesOfItsPrefixAndContinues) {
  Put("user/0", "before");
  api::WatchRequest args = FromNow("user/");
  std::vector<ChangeOf> expected;
  for (int i = 0; i < 20; ++i) {
    Put("user/" + std::to_string(i), "v");
    Put("other/" + std::to_string(i), "v");
    expected.emplace_back("user/" + std::to_string(i), false);
  }
  node_->PartitionOf("user/3").WriteNow(RemoveOp("user/3"));
  expected.emplace_back("user/3", true);
  std::sort(expected.begin(), expected.end());
  auto all = Watch(args);
  ASSERT_TRUE(all->__isset.success) << all->error.message;
  std::vector<ChangeOf> told = ChangesOf(all->success);
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, expected);
  EXPECT_FALSE(all->success.more);
  for (const api::Change& change : all->success.changes) {
    if (change.key == "user/3") continue;
    EXPECT_EQ(Get(change.key)->success.record.version, change.version);
  }
  // The same changes in small pages.
  args.limit_changes = 3;
  told.clear();
  for (bool more = true; more;) {
    auto page = Watch(args);
    ASSERT_TRUE(page->__isset.success) << page->error.message;
    EXPECT_LE(page->success.changes.size(), 3u);
    for (ChangeOf& change : ChangesOf(page->success)) told.push_back(change);
    args.position = page->success.position;
    more = page->success.more;
  }
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, expected);
  EXPECT_TRUE(Watch(args)->success.changes.empty());
}

// Whoever begins to watch learns that a partition cannot tell of its changes.
TEST_P(KvWatchTest, APartitionOutOfServiceIsNotPassedOver) {
  Put("k", "v");
  FakePartition& partition = node_->PartitionOf("k");
  partition.failure = Error(Code::kUnavailable, "the partition is out of service");
  partition.changes.Close();
  auto reply = Watch(api::WatchRequest());
  EXPECT_FALSE(reply->__isset.success);
  EXPECT_THAT(reply->error.message, HasSubstr("out of service"));
}

TEST_P(KvWatchTest, WaitsUntilSomethingChanges) {
  for (const std::string prefix : {"", "k", "{tag}"}) {
    for (const std::string name : {"/a", "/b", "/c", "/d"}) {  // in partitions of both reactors
      api::WatchRequest args = FromNow(prefix);
      args.wait_ms = 5000;
      const std::string key = (prefix == "{tag}" ? prefix : "k") + name;
      const Nanos begin = kernel_.now_ns();
      WriteAt(begin + kSecond / 2, PutOp("unrelated"));
      WriteAt(begin + kSecond, PutOp(key));
      auto reply = Watch(args);
      ASSERT_TRUE(reply->__isset.success) << reply->error.message;
      if (prefix.empty()) {
        EXPECT_EQ(ChangesOf(reply->success), (std::vector<ChangeOf>{{"unrelated", false}}));
        EXPECT_LT(kernel_.now_ns() - begin, kSecond / 2 + 50 * kMillisecond);
        kernel_.RunFor(kSecond);
      } else {
        EXPECT_EQ(ChangesOf(reply->success), (std::vector<ChangeOf>{{key, false}}));
        EXPECT_GE(kernel_.now_ns() - begin, kSecond);
        EXPECT_LT(kernel_.now_ns() - begin, kSecond + 150 * kMillisecond);
      }
    }
  }
}

TEST_P(KvWatchTest, EndsWithItsTimeAndBeforeItsBudget) {
  api::WatchRequest args = FromNow("k");
  args.wait_ms = 300;
  Nanos begin = kernel_.now_ns();
  auto reply = Watch(args);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_TRUE(reply->success.changes.empty());
  EXPECT_GE(kernel_.now_ns() - begin, 300 * kMillisecond);
  EXPECT_LT(kernel_.now_ns() - begin, 400 * kMillisecond);
  args.position = reply->success.position;
  args.wait_ms = 60'000;
  api::Context context;
  context.budget_ms = 2000;
  begin = kernel_.now_ns();
  reply = Watch(args, context);
  EXPECT_TRUE(reply->__isset.success) << "an empty reply, not a DEADLINE: " << reply->error.message;
  EXPECT_LT(kernel_.now_ns() - begin, 2 * kSecond);
}

TEST_P(KvWatchTest, WhoFallsBehindIsTold) {
  api::WatchRequest args = FromNow("k");
  FakePartition& partition = node_->PartitionOf("k");
  const Version first = partition.WriteNow(PutOp("k")).version;
  while (partition.changes.floor() <= first) partition.WriteNow(PutOp("k"));
  auto reply = Watch(args);
  EXPECT_EQ(reply->error.code, api::g_pando_constants.FEED_GONE);
  EXPECT_THAT(reply->error.message, HasSubstr("open a snapshot"));
  api::WatchRequest by_version;
  by_version.after_version = static_cast<int64_t>(first);
  EXPECT_EQ(ErrorOf(by_version), api::g_pando_constants.FEED_GONE);
  by_version.after_version = static_cast<int64_t>(partition.changes.newest());
  EXPECT_TRUE(Watch(by_version)->__isset.success);
  // A position of another store says nothing about this one.
  node_->store.node.lo ^= 1;
  EXPECT_EQ(ErrorOf(FromNow("k")), 0);
  api::WatchRequest elsewhere = FromNow("k");
  node_->store.node.lo ^= 1;
  EXPECT_EQ(ErrorOf(elsewhere), api::g_pando_constants.FEED_GONE);
}

TEST_P(KvWatchTest, BadRequests) {
  const api::WatchRequest good = FromNow("k");
  api::WatchRequest args = good;
  args.prefix = "other";
  EXPECT_EQ(ErrorOf(args), api::g_pando_constants.BAD_CURSOR);
  args = good;
  args.position[9] = static_cast<char>(args.position[9] ^ 1);
  EXPECT_EQ(ErrorOf(args), api::g_pando_constants.BAD_CURSOR);
  args.position = "nonsense";
  EXPECT_EQ(ErrorOf(args), api::g_pando_constants.BAD_CURSOR);
  for (auto set :
       {+[](api::WatchRequest* r) { r->wait_ms = -1; }, +[](api::WatchRequest* r) { r->limit_changes = -1; },
        +[](api::WatchRequest* r) { r->after_version = -1; }, +[](api::WatchRequest* r) { r->after_version = 5; }}) {
    args = good;
    set(&args);
    EXPECT_EQ(ErrorOf(args), api::g_pando_constants.BAD_REQUEST);
  }
  args = good;
  args.prefix.assign(2049, 'k');
  EXPECT_EQ(ErrorOf(args), api::g_pando_constants.TOO_LARGE);
  api::Context context;
  context.principal = "root";
  EXPECT_EQ(Watch(good, context)->error.code, api::g_pando_constants.DENIED);
  node_->PartitionOf("k").WriteNow(PutOp("k"));
  node_->PartitionOf("k").failure = Status(Code::kUnavailable, "stopped");
  EXPECT_EQ(ErrorOf(good), api::g_pando_constants.UNAVAILABLE);
}

TEST_P(KvWatchTest, ContinuesFromASnapshot) {
  for (int i = 0; i < 50; ++i) Put("k" + std::to_string(i), "old");
  auto snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", api::Kv_openSnapshot_args());
  ASSERT_TRUE(snapshot->__isset.success) << snapshot->error.message;
  std::vector<ChangeOf> expected;
  for (int i = 40; i < 60; ++i) {
    Put("k" + std::to_string(i), "new");
    expected.emplace_back("k" + std::to_string(i), false);
  }
  api::WatchRequest args;
  args.after_version = snapshot->success.version;
  std::vector<ChangeOf> told = ChangesOf(Watch(args)->success);
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, expected) << "exactly the changes that the snapshot does not have";
}

// A client that follows a prefix over a connection of its own.
struct Follower {
  SimReactor* reactor = nullptr;
  uint16_t port = 0;
  std::string prefix;
  int32_t limit = 0;
  std::map<std::string, std::optional<int64_t>> state;  // version, or nullopt if removed
  bool stop = false;
  size_t calls = 0, changes = 0;
  std::string failure;

  Task<void> Run() {
    RpcClient client(*reactor, RpcClientOptions());
    Status connected = co_await client.Connect("10.0.0.1", port, kSecond);
    CHECK(connected.ok());
    api::Kv_watch_args args;
    args.request.prefix = prefix;
    args.request.limit_changes = limit;
    bool idle = false;
    while (failure.empty() && !(stop && idle)) {
      api::Kv_watch_result result;
      Status status = co_await client.Call("watch", &args, &result, 10 * kSecond);
      if (!status.ok() || !result.__isset.success) failure = status.ToString() + result.error.message;
      ++calls;
      for (const api::Change& change : result.success.changes) {
        ++changes;
        std::optional<int64_t>& known = state[change.key];
        if (known && *known > change.version) failure = "an older change of " + change.key + " after a newer one";
        known = change.version;
        if (change.removed) known.reset();
      }
      idle = result.success.changes.empty() && !result.success.more;
      args.request.position = result.success.position;
      args.request.wait_ms = stop ? 0 : 200;
    }
    co_await client.Close();
  }
};

Task<void> RunAll(std::vector<Follower>* followers) {
  TaskGroup group;
  for (Follower& follower : *followers) group.Spawn(follower.Run());
  co_await group.Drain();
}

TEST_P(KvWatchTest, FollowersMissNothing) {
  constexpr int kWrites = 2000;
  std::vector<Follower> followers(6);
  for (size_t i = 0; i < followers.size(); ++i) {
    followers[i].reactor = client_reactor_;
    followers[i].port = node_->port;
    followers[i].prefix = std::vector<std::string>{"", "a", "b", "{t}", "none", "a"}[i];
    followers[i].limit = i == 5 ? 1 : 0;
  }
  SimRandom random(GetParam() == WireProtocol::kBinary ? 1 : 2);
  const Nanos begin = kernel_.now_ns() + 100 * kMillisecond;
  Nanos at = begin;
  for (int i = 0; i < kWrites; ++i) {
    at += static_cast<Nanos>(random.Below(4 * kMillisecond));
    const std::string start = std::vector<std::string>{"a", "b", "{t}", "z"}[random.Below(4)];
    const std::string key = start + std::to_string(random.Below(100));
    WriteAt(at, random.Below(4) == 0 ? RemoveOp(key) : PutOp(key));
  }
  kernel_.At(at + kSecond, SimKernel::kNoBoot, [&] {
    for (Follower& follower : followers) follower.stop = true;
  });
  Await(RunAll(&followers));
  std::map<std::string, int64_t> records;
  for (auto& fake : node_->fakes) {
    for (const auto& [key, record] : fake->records) records[key] = static_cast<int64_t>(record.version);
  }
  for (const Follower& follower : followers) {
    EXPECT_EQ(follower.failure, "") << follower.prefix;
    std::map<std::string, int64_t> expected, known;
    for (const auto& [key, version] : records) {
      if (key.starts_with(follower.prefix)) expected[key] = version;
    }
    for (const auto& [key, version] : follower.state) {
      if (version) known[key] = *version;
    }
    EXPECT_EQ(known, expected) << follower.prefix;
    EXPECT_EQ(follower.changes > 0, follower.prefix != "none");
  }
  EXPECT_EQ(followers[0].changes, static_cast<size_t>(kWrites));
}

// Sends watch calls that wait, each on a connection of its own, and checks the node meanwhile.
struct Crowd {
  KvWatchTest* test;
  SimReactor* reactor;
  FakeNode* node;
  size_t size;
  std::string call;
  std::vector<std::unique_ptr<RawPeer>> peers;
  size_t refused = 0;

  Task<void> Arrive() {
    for (size_t i = 0; i < size; ++i) {
      peers.push_back(std::make_unique<RawPeer>(*reactor));
      Status connected = co_await peers.back()->Connect("10.0.0.1", node->port);
      CHECK(connected.ok());
      peers.back()->Send(call);
    }
    co_await Sleep(*reactor, 500 * kMillisecond);
    for (auto& peer : peers) {
      for (const std::string& frame : peer->frames) {
        refused += DecodeReply<api::Kv_watch_result>(frame).result.error.code == api::g_pando_constants.OVERLOADED;
      }
    }
  }
  Task<void> Leave() {
    for (auto& peer : peers) co_await peer->Close();
    co_await Sleep(*reactor, 100 * kMillisecond);
  }
};

// On a connection with replies in order, the replies to later requests wait for the watcher's, and
// take memory. The watcher ends as soon as there is one, without changes.
TEST_P(KvWatchTest, EndsWhenRepliesWaitForIt) {
  Put("k", std::string(100'000, 'v'));
  struct Script {
    static Task<void> Run(SimReactor* reactor, uint16_t port, std::string watch, bool overtake) {
      RawPeer peer(*reactor);
      Status connected = co_await peer.Connect("10.0.0.1", port);
      CHECK(connected.ok());
      api::Kv_hello_args hello;
      if (overtake) hello.request.features = {"out_of_order_replies"};
      peer.Send(EncodeCall("hello", 0, hello, GetParam()));
      co_await peer.UntilFrames(1);
      peer.Send(watch);
      co_await Sleep(*reactor, kSecond);
      EXPECT_EQ(peer.frames.size(), 1u) << "the watcher did not wait";
      peer.Send(GetCall(2, "k", 0, GetParam()));
      co_await Sleep(*reactor, kSecond / 10);
      EXPECT_EQ(peer.frames.size(), overtake ? 2u : 3u);
      if (!overtake && peer.frames.size() == 3) {
        auto reply = DecodeReply<api::Kv_watch_result>(peer.frames[1]);
        EXPECT_EQ(reply.header.seqid, 1);
        EXPECT_TRUE(reply.result.__isset.success) << reply.result.error.message;
        EXPECT_TRUE(reply.result.success.changes.empty());
        EXPECT_FALSE(reply.result.success.position.empty());
      }
      EXPECT_EQ(DecodeReply<api::Kv_get_result>(peer.frames.back()).header.seqid, 2);
      co_await peer.Close();
    }
  };
  for (bool overtake : {false, true}) {
    Await(Script::Run(client_reactor_, node_->port, PatientCall("none"), overtake));
  }
}

TEST_P(KvWatchTest, WaitingWatchersAreLimitedAndReleasedWithTheirConnections) {
  WatchHub::Metrics& metrics = node_->services[0]->watchers().metrics();
  const size_t limit = node_->services[0]->watchers().options().max_waiting;
  Crowd crowd{this, client_reactor_, node_.get(), limit + 3, PatientCall("k"), {}};
  Await(crowd.Arrive());
  EXPECT_EQ(crowd.refused, 3u);
  EXPECT_EQ(metrics.refused_total.value(), 3u);
  EXPECT_EQ(metrics.waiting.value(), static_cast<int64_t>(limit));
  EXPECT_LT(node_->shared.memory.used_bytes(), static_cast<int64_t>((limit + 64) * 8192));
  EXPECT_TRUE(Get("k")->__isset.success) << "other requests are served";
  Await(crowd.Leave());
  EXPECT_EQ(metrics.waiting.value(), 0);
}

// One write makes all watchers look. Those that find nothing with their prefix need no memory for it.
TEST_P(KvWatchTest, WatchersThatFindNothingLeaveTheMemoryToOthers) {
  constexpr int64_t kLeft = 8 << 20;
  const int64_t taken = node_->shared.memory.limit_bytes() - kLeft;
  Put("k", std::string(1000, 'v'));
  const size_t all = node_->services[0]->watchers().options().max_waiting;
  Crowd crowd{this, client_reactor_, node_.get(), all, PatientCall("nobody writes this"), {}};
  node_->shared.memory.Force(taken);
  const uint64_t refused_before = node_->servers[0]->metrics().overloaded_total.value();
  for (int i = 0; i < 20; ++i)
    WriteAt(kernel_.now_ns() + (300 + 10 * i) * kMillisecond, PutOp("other" + std::to_string(i)));
  Await(crowd.Arrive());
  EXPECT_EQ(crowd.refused, 0u);
  EXPECT_EQ(node_->servers[0]->metrics().overloaded_total.value(), refused_before);
  EXPECT_EQ(node_->services[0]->watchers().metrics().waiting.value(), static_cast<int64_t>(all));
  EXPECT_TRUE(Get("k")->__isset.success);
  Await(crowd.Leave());
  node_->shared.memory.Release(taken);
}

// A watcher that has changes to tell gets fewer when memory is short, and is refused when there is
// none.
TEST_P(KvWatchTest, AReplyIsShorterWhenMemoryIsShort) {
  api::WatchRequest args = FromNow("k");
  for (int i = 0; i < 300; ++i) node_->PartitionOf("{t}").WriteNow(PutOp("k{t}" + std::to_string(i)));
  const size_t all = Watch(args)->success.changes.size();
  EXPECT_EQ(all, 300u);
  const int64_t free = node_->shared.memory.limit_bytes() - node_->shared.memory.used_bytes();
  const int64_t taken = free - (100 << 10);
  node_->shared.memory.Force(taken);
  auto reply = Watch(args);
  EXPECT_TRUE(reply->__isset.success) << reply->error.message;
  EXPECT_GT(reply->success.changes.size(), 10u);
  node_->shared.memory.Release(taken);
}

TEST_P(KvWatchTest, AStoppingNodeLetsWatchersGo) {
  Crowd crowd{this, client_reactor_, node_.get(), 5, PatientCall("k"), {}};
  Await(crowd.Arrive());
  Await(client_->Close());
  const Nanos begin = kernel_.now_ns();
  Await(*server_reactor_, node_->Stop());
  EXPECT_LT(kernel_.now_ns() - begin, 500 * kMillisecond);
  for (auto& peer : crowd.peers) {
    kernel_.RunFor(10 * kMillisecond);
    ASSERT_EQ(peer->frames.size(), 1u);
    EXPECT_TRUE(DecodeReply<api::Kv_watch_result>(peer->frames[0]).result.__isset.success);
  }
}

}  // namespace
}  // namespace pando
