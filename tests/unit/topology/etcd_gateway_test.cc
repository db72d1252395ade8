// What EtcdTopology makes of servers that give bad answers, or none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "src/base/base64.h"
#include "src/topology/etcd_topology.h"
#include "src/topology/topology.h"
#include "src/topology/topology_watch.h"
#include "tests/unit/topology/fake_gateway.h"
#include "tests/unit/topology/store_harness.h"

namespace pando::topology_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Answer = FakeGateway::Answer;
using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 2 * kSecond;

std::string Header(Revision revision, uint64_t cluster = 77) {
  return fmt::format(R"("header":{{"cluster_id":"{}","member_id":"1","revision":"{}"}})", cluster, revision);
}
std::string Kv(const std::string& key, const std::string& value, Revision revision) {
  return fmt::format(R"({{"key":"{}","value":"{}","mod_revision":"{}"}})", Base64Encode("/pando/x/" + key),
                     Base64Encode(value), revision);
}
std::string Range(Revision revision, const std::string& kvs, uint64_t cluster = 77) {
  return fmt::format(R"({{{},"responses":[{{"response_range":{{"kvs":[{}]}}}}]}})", Header(revision, cluster), kvs);
}
std::string Stored(Revision revision) { return fmt::format(R"({{{},"succeeded":true}})", Header(revision)); }

class EtcdGatewayTest : public ::testing::Test {
 protected:
  EtcdGatewayTest() {
    auto made = MakeUringReactor({});
    CHECK(made.ok()) << made.status().ToString();
    reactor_ = *std::move(made);
    for (int i = 0; i < 2; ++i) {
      gateways_.push_back(std::make_unique<FakeGateway>(*reactor_, [](auto&, auto&) { return FakeGateway::Hang(); }));
    }
  }
  ~EtcdGatewayTest() override {
    Disconnect();
    for (auto& gateway : gateways_) RunBlocking(*reactor_, gateway->Stop());
  }
  void Disconnect() {
    if (topology_) EXPECT_OK(RunBlocking(*reactor_, topology_->Close()));
    topology_.reset();
  }
  // Connects to the first gateways, and to a port on which nobody listens.
  Topology& Connect(size_t gateways, bool and_nobody = false, BudgetAccount* memory = nullptr) {
    Disconnect();
    EtcdOptions options;
    options.name = "x";
    if (and_nobody) options.endpoints.push_back("127.0.0.1:1");
    for (size_t i = 0; i < gateways; ++i) options.endpoints.push_back(gateways_[i]->address());
    auto http = MakeHttpClient(*reactor_);
    CHECK(http.ok());
    auto store = std::make_unique<EtcdTopology>(*reactor_, *std::move(http), options);
    topology_ = std::make_unique<Topology>(*reactor_, std::move(store), memory);
    return *topology_;
  }
  // Every gateway answers with this.
  void Script(const std::function<Answer()>& answer) {
    for (auto& gateway : gateways_) gateway->SetScript([answer](auto&, auto&) { return answer(); });
  }
  // The first gateway answers with this, the second as etcd would.
  void BadAndGood(Answer bad, const std::string& good) {
    gateways_[0]->SetScript([bad](auto&, auto&) { return bad; });
    gateways_[1]->SetScript([good](auto&, auto&) { return FakeGateway::Json(good); });
  }
  Result<TopologyEntry> Read(Nanos timeout_ns = kTimeout) {
    return RunBlocking(*reactor_, topology_->Read("node/1", timeout_ns));
  }
  Result<CasOutcome> Swap(Nanos timeout_ns = kTimeout) {
    return RunBlocking(*reactor_, topology_->CompareAndSwap("node/1", 4, "new", timeout_ns));
  }
  Result<TopologyChanges> Wait(Nanos timeout_ns) {
    return RunBlocking(*reactor_, topology_->WaitForChange(4, timeout_ns));
  }
  Nanos Now() {
    struct Look {
      static Task<Nanos> At(Reactor* r) {
        co_await Yield(*r);
        co_return r->NowNs();
      }
    };
    return RunBlocking(*reactor_, Look::At(reactor_.get()));
  }

  std::unique_ptr<Reactor> reactor_;
  std::vector<std::unique_ptr<FakeGateway>> gateways_;
  std::unique_ptr<Topology> topology_;
};

struct BadAnswer {
  const char* name;
  Answer answer;
};
const BadAnswer kBadAnswers[] = {
    {"503", FakeGateway::Json("unavailable", 503)},
    {"no leader", FakeGateway::Json(R"({"message":"etcdserver: no leader","code":14})", 503)},
    {"redirect", {"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false}},
    {"half a body", {"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n{\"header\":", true}},
    {"half a head", {"HTTP/1.1 200 X\r\nConte", true}},
    {"closed", FakeGateway::Close()},
    {"a page", FakeGateway::Json("<html>hello</html>")},
    {"not HTTP", {"\x16\x03\x01 what?\r\n\r\n", true}},
    {"endless head", {"HTTP/1.1 200 X\r\nX: " + std::string(400'000, 'x'), true}},
    {"hangs", FakeGateway::Hang()},
};

// A read goes on to the next server, whatever happened at the first.
TEST_F(EtcdGatewayTest, ReadsGoOnToTheNextServer) {
  for (const BadAnswer& bad : kBadAnswers) {
    SCOPED_TRACE(bad.name);
    BadAndGood(bad.answer, Range(9, Kv("node/1", "value", 5)));
    Connect(2);
    for (int i = 0; i < 3; ++i) {
      Result<TopologyEntry> entry = Read();
      ASSERT_TRUE(entry.ok()) << entry.status().ToString();
      EXPECT_EQ(*entry, (TopologyEntry{"node/1", "value", 5}));
    }
  }
}

TEST_F(EtcdGatewayTest, ErrorsNameTheServerAndTheCause) {
  Script([] { return FakeGateway::Json(R"({"message":"etcdserver: mvcc: database space exceeded","code":8})", 503); });
  Connect(2, /*and_nobody=*/true);
  Result<TopologyEntry> entry = Read();
  EXPECT_EQ(entry.code(), Code::kUnavailable);
  for (auto& gateway : gateways_)
    EXPECT_THAT(entry.status().message(), HasSubstr(gateway->address() + ": HTTP status 503"));
  EXPECT_THAT(entry.status().message(), HasSubstr("database space exceeded"));
  EXPECT_THAT(entry.status().message(), HasSubstr("127.0.0.1:1: "));
  EXPECT_THAT(entry.status().message(), HasSubstr("etcd://127.0.0.1:1,"));
  EXPECT_EQ(topology_->metrics().errors.value(), 1u);
}

// TS4, ET1: a change that may have been received is not sent again, and its outcome is unknown.
TEST_F(EtcdGatewayTest, ChangesWithoutAnAnswerAreUnknownAndSentOnce) {
  for (const BadAnswer& bad : kBadAnswers) {
    SCOPED_TRACE(bad.name);
    Script([&bad] { return bad.answer; });
    const size_t before = gateways_[0]->requests() + gateways_[1]->requests();
    Connect(2);
    Result<CasOutcome> outcome = Swap(kSecond);
    ASSERT_TRUE(outcome.ok()) << outcome.status().ToString();
    EXPECT_EQ(outcome->kind, Kind::kUnknown);
    EXPECT_FALSE(outcome->why.ok());
    EXPECT_EQ(gateways_[0]->requests() + gateways_[1]->requests(), before + 1);
    EXPECT_EQ(topology_->metrics().cas_unknown.value(), 1u);
  }
}

TEST_F(EtcdGatewayTest, ChangesGoOnIfTheyWereNotSent) {
  Script([] { return FakeGateway::Json(Stored(6)); });
  for (int i = 0; i < 5; ++i) {  // the first server to be asked is drawn
    Connect(1, /*and_nobody=*/true);
    Result<CasOutcome> outcome = Swap();
    ASSERT_TRUE(outcome.ok());
    EXPECT_EQ(outcome->kind, Kind::kStored);
    EXPECT_EQ(outcome->revision, 6u);
  }
}

TEST_F(EtcdGatewayTest, RefusedChangesAreErrors) {
  Script([] { return FakeGateway::Json(R"({"message":"etcdserver: permission denied","code":7})", 403); });
  Connect(1);
  Result<CasOutcome> outcome = Swap();
  EXPECT_EQ(outcome.code(), Code::kUnavailable);
  EXPECT_THAT(outcome.status().message(), HasSubstr("permission denied"));
}

// ET1: libcurl would send a change again over a new connection if one that it has kept were dead.
TEST_F(EtcdGatewayTest, NoChangeGoesOverAKeptConnection) {
  Script([] { return FakeGateway::Json(Range(9, "")); });
  Connect(1);
  EXPECT_OK(Read().status());
  EXPECT_OK(Read().status());
  EXPECT_EQ(gateways_[0]->connections(), 1u);  // reads do
  Script([] { return FakeGateway::Close(); });
  Result<CasOutcome> outcome = Swap();
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->kind, Kind::kUnknown);
  EXPECT_EQ(gateways_[0]->requests(), 3u);
  EXPECT_EQ(gateways_[0]->connections(), 2u);
}

TEST_F(EtcdGatewayTest, Garbage) {
  for (const char* body :
       {"", "null", "{", "{}", "<html>", R"({"header":{"cluster_id":"1","revision":"2"},"responses":[]})"}) {
    SCOPED_TRACE(body);
    Script([body] { return FakeGateway::Json(body); });
    Connect(1);
    Result<TopologyEntry> entry = Read();
    EXPECT_EQ(entry.code(), Code::kCorruption);
    EXPECT_THAT(entry.status().message(), HasSubstr("not one of etcd's"));
    EXPECT_EQ(RunBlocking(*reactor_, topology_->List(kTimeout)).code(), Code::kCorruption);
  }
  Script([] { return FakeGateway::Json("{}"); });
  Connect(1);
  EXPECT_EQ(Swap()->kind, Kind::kUnknown);
  Script([] { return FakeGateway::Json(Range(9, Kv("node/2", "", 5))); });
  EXPECT_THAT(Read().status().message(), HasSubstr("another key"));
  Script([] { return FakeGateway::Json(Range(9, Kv("b", "", 5) + "," + Kv("a", "", 5))); });
  EXPECT_THAT(RunBlocking(*reactor_, topology_->List(kTimeout)).status().message(), HasSubstr("out of order"));
}

TEST_F(EtcdGatewayTest, ListingsReserveMemory) {
  MemoryBudget budget(1000);
  BudgetAccount account(&budget);
  Script([] { return FakeGateway::Json(Range(9, Kv("node/1", std::string(900, 'x'), 5))); });
  Connect(1, /*and_nobody=*/false, &account);
  EXPECT_EQ(RunBlocking(*reactor_, topology_->List(kTimeout)).code(), Code::kOverloaded);
  Script([] { return FakeGateway::Json(Range(9, Kv("node/1", std::string(500, 'x'), 5))); });
  {
    Result<TopologyListing> listing = RunBlocking(*reactor_, topology_->List(kTimeout));
    ASSERT_TRUE(listing.ok()) << listing.status().ToString();
    EXPECT_GE(account.in_use_bytes(), 500);
  }
  EXPECT_EQ(account.in_use_bytes(), 0);
  Connect(1);
}

TEST_F(EtcdGatewayTest, LongAnswersAreCutOff) {
  Script([] { return FakeGateway::Json(std::string(EtcdTopology::kMaxAnswerBytes + 1, ' ')); });
  Connect(1);
  Result<TopologyEntry> entry = Read(10 * kSecond);
  EXPECT_THAT(entry.status().message(), HasSubstr("the answer is longer than"));
  Script([] { return FakeGateway::Json(Range(9, Kv("node/1", std::string(kMaxTopologyValueBytes + 1, 'x'), 5))); });
  EXPECT_EQ(RunBlocking(*reactor_, topology_->List(kTimeout)).code(), Code::kCorruption);
}

// TC1: whatever the servers do, a call ends in time.
TEST_F(EtcdGatewayTest, CallsEndInTime) {
  Connect(2);
  Nanos begin = Now();
  Result<TopologyEntry> entry = Read(700 * kMillisecond);
  EXPECT_EQ(entry.code(), Code::kDeadline);
  EXPECT_LT(Now() - begin, 1200 * kMillisecond);
  begin = Now();
  Result<CasOutcome> outcome = Swap(400 * kMillisecond);
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome->kind, Kind::kUnknown);
  EXPECT_EQ(outcome->why.code(), Code::kDeadline);
  EXPECT_LT(Now() - begin, 900 * kMillisecond);
  EXPECT_EQ(Wait(300 * kMillisecond).code(), Code::kUnavailable);
}

// TC2
TEST_F(EtcdGatewayTest, NoticesThatEtcdWentBack) {
  Script([] { return FakeGateway::Json(Range(9, Kv("node/1", "new", 8))); });
  Connect(1);
  EXPECT_OK(Read().status());
  EXPECT_OK(RunBlocking(*reactor_, topology_->List(kTimeout)).status());
  Script([] { return FakeGateway::Json(Range(9, Kv("node/1", "old", 7))); });
  EXPECT_THAT(Read().status().message(), HasSubstr("has gone back: node/1 is at revision 7, and was at revision 8"));
  Script([] { return FakeGateway::Json(Range(8, Kv("node/1", "new", 8))); });
  EXPECT_THAT(RunBlocking(*reactor_, topology_->List(kTimeout)).status().message(),
              HasSubstr("has gone back: it is at revision 8, and was at revision 9"));
  Script([] { return FakeGateway::Json(Range(10, "")); });
  EXPECT_THAT(RunBlocking(*reactor_, topology_->List(kTimeout)).status().message(),
              HasSubstr("has gone back: node/1 is at revision 0"));
  EXPECT_FALSE(topology_->went_back().ok());
  Script([] { return FakeGateway::Json(Range(11, Kv("node/1", "new", 8))); });
  EXPECT_OK(RunBlocking(*reactor_, topology_->List(kTimeout)).status());
  EXPECT_OK(topology_->went_back());
}

// ET3
TEST_F(EtcdGatewayTest, NoticesAnotherCluster) {
  Script([] { return FakeGateway::Json(Range(9, "")); });
  Connect(1);
  EXPECT_OK(Read().status());
  Script([] { return FakeGateway::Json(Range(9, "", 78)); });
  EXPECT_THAT(Read().status().message(), HasSubstr("comes from the etcd cluster 4e, and earlier ones came from 4d"));
}

TEST_F(EtcdGatewayTest, Waits) {
  const std::string created = fmt::format("{{\"result\":{{{},\"created\":true}}}}\n", Header(4));
  const auto event = [](const std::string& kv, const char* type) {
    return fmt::format("{{\"result\":{{{},\"events\":[{{{}\"kv\":{}}}]}}}}\n", Header(20), type, kv);
  };
  const auto stream = [this](const std::string& lines) { Script([lines] { return FakeGateway::Stream(lines); }); };
  Connect(1);
  stream(created);
  Result<TopologyChanges> changes = Wait(200 * kMillisecond);
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_TRUE(!changes->gap && changes->entries.empty() && changes->revision == 4);

  stream(created + event(Kv("node/1", "v", 6), ""));
  changes = Wait(kTimeout);
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_EQ(changes->entries.size(), 1u);
  EXPECT_EQ(changes->revision, 6u) << "not that of the header";

  stream(created + event(Kv("node/1", "", 6), "\"type\":\"DELETE\","));
  EXPECT_TRUE(Wait(kTimeout)->gap);
  stream(created + fmt::format("{{\"result\":{{{},\"canceled\":true,\"compact_revision\":\"9\"}}}}\n", Header(0)));
  EXPECT_TRUE(Wait(kTimeout)->gap);
  stream(created + fmt::format("{{\"result\":{{{},\"canceled\":true,\"cancel_reason\":\"why\"}}}}\n", Header(0)));
  EXPECT_THAT(Wait(kTimeout).status().message(), HasSubstr("has ended the watch: why"));
  stream(created + "{\"error\":{\"grpc_code\":14,\"message\":\"etcdserver: no leader\"}}\n");
  EXPECT_THAT(Wait(kTimeout).status().message(), HasSubstr("etcdserver: no leader"));
  stream(created + "garbage\n");
  EXPECT_EQ(Wait(kTimeout).code(), Code::kCorruption);
  Script([created] { return Answer{FakeGateway::Stream(created).bytes + "0\r\n\r\n", false}; });
  EXPECT_EQ(Wait(kTimeout).code(), Code::kUnavailable);  // it ended without a word
  Script([created] { return Answer{FakeGateway::Stream(created).bytes, true}; });
  EXPECT_EQ(Wait(kTimeout).code(), Code::kUnavailable);
  // Half a line is not a change.
  const std::string half = event(Kv("node/1", "v", 6), "");
  stream(created + half.substr(0, half.size() / 2));
  changes = Wait(200 * kMillisecond);
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_TRUE(changes->entries.empty());
}

std::string Changed(Revision revision, const std::string& kvs, int count) {
  return fmt::format(R"({{{},"responses":[{{"response_range":{{"kvs":[{}],"count":"{}"}}}}]}})", Header(revision), kvs,
                     count);
}

TEST_F(EtcdGatewayTest, ReadsOnlyWhatHasChanged) {
  std::vector<std::string> bodies;
  Revision now = 9;
  std::string kvs = Kv("node/1", "v", 12);
  gateways_[0]->SetScript([&](auto&, const std::string& body) {
    bodies.push_back(body);
    if (body.find("minModRevision") == std::string::npos) return FakeGateway::Json(Range(now, ""));
    return FakeGateway::Json(Changed(now, kvs, 3));
  });
  Connect(1);
  const auto read = [this](Revision after) { return RunBlocking(*reactor_, topology_->ReadChanges(after, kTimeout)); };
  const EtcdKeys keys{"/pando/x/"};
  Result<TopologyChanges> changes = read(9);
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_TRUE(!changes->gap && changes->entries.empty() && changes->revision == 9);
  EXPECT_THAT(bodies, ElementsAre(EtcdRevisionRequest(keys)));
  now = 12;
  bodies.clear();
  changes = read(9);
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_THAT(changes->entries, ElementsAre(TopologyEntry{"node/1", "v", 12}));
  EXPECT_EQ(changes->revision, 12u);
  EXPECT_EQ(changes->keys, std::optional<size_t>(3));
  EXPECT_THAT(bodies, ElementsAre(EtcdRevisionRequest(keys), EtcdChangedRequest(keys, 10, kMaxTopologyKeys + 1)));
  // A server that does not know the filter.
  kvs = Kv("node/1", "v", 9);
  EXPECT_THAT(read(9).status().message(), HasSubstr("has not changed since revision 9"));
  now = 11;
  kvs = "";
  EXPECT_THAT(read(12).status().message(), HasSubstr("has gone back: it is at revision 11, and was at revision 12"));
}

// The watch of etcd tells of nothing, and still a change is found within two seconds, without a listing.
TEST_F(EtcdGatewayTest, AWatchFindsWhatEtcdDoesNotTellOf) {
  size_t listings = 0;
  Revision now = 9;
  bool removed = false;
  gateways_[0]->SetScript([&](const std::string& path, const std::string& body) {
    if (path == "/v3/watch") {
      return FakeGateway::Stream(fmt::format("{{\"result\":{{{},\"created\":true}}}}\n", Header(now)));
    }
    const std::string kv = now == 9 ? Kv("node/1", "old", 8) : Kv("node/1", "new", 10);
    if (body.find("minModRevision") != std::string::npos) {
      return FakeGateway::Json(Changed(now, now == 9 || removed ? "" : kv, removed ? 0 : 1));
    }
    if (body.find("rangeEnd") == std::string::npos) return FakeGateway::Json(Range(now, ""));
    ++listings;
    return FakeGateway::Json(Changed(now, removed ? "" : kv, 1));
  });
  struct Watching {
    static Task<void> Until(TopologyWatch* watch, const std::function<bool()>* holds) {
      const Nanos limit_ns = watch->reactor().NowNs() + 20 * kSecond;
      while (!(*holds)() && watch->reactor().NowNs() < limit_ns) co_await Sleep(watch->reactor(), kMillisecond);
    }
    static Task<void> Stop(Topology* topology, TopologyWatch* watch) {
      topology->EndWaits();
      co_await watch->Stop();
    }
  };
  TopologyWatch watch(&Connect(1));
  const auto value = [&watch] { return watch.newest().contains("node/1") ? watch.newest().at("node/1").value : ""; };
  std::function<bool()> holds = [&] { return value() == "old"; };
  RunBlocking(*reactor_, Watching::Until(&watch, &holds));
  EXPECT_EQ(listings, 1u);
  now = 10;
  const Nanos begin_ns = Now();
  holds = [&] { return value() == "new"; };
  RunBlocking(*reactor_, Watching::Until(&watch, &holds));
  EXPECT_EQ(value(), "new");
  EXPECT_LE(Now() - begin_ns, TopologyWatch::kCheckNs + 500 * kMillisecond);
  EXPECT_EQ(listings, 1u);
  // A key that was removed: the number of keys says so, and the listing what is wrong.
  removed = true;
  now = 11;
  holds = [&] { return !watch.status().ok(); };
  RunBlocking(*reactor_, Watching::Until(&watch, &holds));
  EXPECT_THAT(watch.status().message(), HasSubstr("has gone back: node/1 is at revision 0"));
  EXPECT_GE(listings, 2u);
  RunBlocking(*reactor_, Watching::Stop(topology_.get(), &watch));
}

TEST_F(EtcdGatewayTest, AsksForALeaderAndUsesNoProxy) {
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  setenv("all_proxy", "http://127.0.0.1:1", 1);
  Script([] { return FakeGateway::Json(Range(9, "")); });
  Connect(1);
  EXPECT_OK(Read().status());
  unsetenv("http_proxy");
  unsetenv("all_proxy");
  EXPECT_THAT(gateways_[0]->heads().front(), HasSubstr("Grpc-Metadata-hasleader: true"));
  EXPECT_THAT(gateways_[0]->heads().front(), Not(HasSubstr("Expect:")));
  EXPECT_EQ(gateways_[0]->paths().front(), "/v3/kv/txn");
}

// Waits end when they are told to; a client can be closed while servers hang.
TEST_F(EtcdGatewayTest, EndsWaits) {
  Connect(2);
  struct Both {
    static Task<void> WaitLong(Topology* t) {
      Result<TopologyChanges> changes = co_await t->WaitForChange(4, 60 * kSecond);
      EXPECT_EQ(changes.code(), Code::kAborted);
    }
    static Task<void> Run(Topology* t) {
      Together together;
      together.Add(WaitLong(t));
      co_await Sleep(t->reactor(), 50 * kMillisecond);
      t->EndWaits();
      co_await together.Wait();
      Result<TopologyChanges> later = co_await t->WaitForChange(4, 60 * kSecond);
      EXPECT_EQ(later.code(), Code::kAborted);
    }
  };
  const Nanos begin = Now();
  RunBlocking(*reactor_, Both::Run(topology_.get()));
  EXPECT_LT(Now() - begin, 5 * kSecond);
}

}  // namespace
}  // namespace pando::topology_test
