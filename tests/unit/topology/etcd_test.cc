// EtcdTopology with real servers that are killed, stopped, and compacted. tests/unit/topology has the
// same suite for every store, and servers that give bad answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "src/base/base64.h"
#include "src/topology/topology_watch.h"
#include "tests/unit/topology/etcd_world.h"

namespace pando::topology_test {
namespace {

using ::testing::HasSubstr;
using Kind = CasOutcome::Kind;

constexpr Nanos kTimeout = 10 * kSecond;

// Parameter: the binary of etcd.
class EtcdTest : public ::testing::TestWithParam<std::string (*)()> {
 protected:
  void SetUp() override {
    if (access(GetParam()().c_str(), X_OK) != 0) GTEST_SKIP() << "there is no etcd at " << GetParam()();
    auto made = MakeUringReactor({});
    CHECK(made.ok()) << made.status().ToString();
    reactor_ = *std::move(made);
  }
  void Begin(size_t members) {
    cluster_ = std::make_unique<EtcdCluster>(GetParam()(), members);
    auto first = Client();
    RunBlocking(*reactor_, AwaitEtcd(first.get()));
    EXPECT_OK(RunBlocking(*reactor_, first->Close()));
  }
  EtcdOptions Options() const {
    EtcdOptions options;
    options.endpoints = cluster_->endpoints();
    options.name = "real";
    return options;
  }
  std::unique_ptr<Topology> Client() {
    return std::make_unique<Topology>(*reactor_, ConnectToEtcd(*reactor_, Options()));
  }
  // Only to the member i.
  std::unique_ptr<Topology> ClientOf(size_t i) {
    EtcdOptions options = Options();
    options.endpoints = {options.endpoints[i]};
    return std::make_unique<Topology>(*reactor_, ConnectToEtcd(*reactor_, options));
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(*reactor_, std::move(task));
  }
  // Sends a request as it is.
  HttpAnswer Post(const std::string& path, const std::string& body) {
    auto http = MakeHttpClient(*reactor_);
    HttpRequest request;
    request.url = "http://" + cluster_->endpoints()[0] + path;
    request.body = body;
    request.timeout_ns = request.connect_timeout_ns = kTimeout;
    return Run((*http)->Post(request));
  }
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<EtcdCluster> cluster_;
};

Task<std::vector<std::string>> NextValues(TopologyWatch* watch, Nanos timeout_ns) {
  std::vector<std::string> values;
  Result<std::vector<TopologyEntry>> news = co_await watch->Next(timeout_ns);
  if (!news.ok()) values.push_back(news.status().ToString());
  if (!news.ok()) co_return values;
  for (const TopologyEntry& entry : *news) values.push_back(entry.value);
  co_return values;
}

// A watch outlives its server, and nothing that was stored is lost.
TEST_P(EtcdTest, IsKilledAndRestarted) {
  Begin(1);
  auto a = Client(), b = Client();
  TopologyWatch watch(a.get());
  Result<CasOutcome> first = Run(b->CompareAndSwap("node/1", 0, "before", kTimeout));
  ASSERT_TRUE(first.ok() && first->kind == Kind::kStored);
  EXPECT_THAT(Run(NextValues(&watch, kTimeout)), testing::ElementsAre("before"));
  cluster_->Kill(0);
  Result<CasOutcome> down = Run(b->CompareAndSwap("node/1", first->revision, "down", kSecond));
  EXPECT_FALSE(down.ok()) << "nobody has listened";
  EXPECT_EQ(Run(b->Read("node/1", kSecond)).code(), Code::kUnavailable);
  Result<std::vector<TopologyEntry>> none = Run(watch.Next(3 * kSecond));
  EXPECT_EQ(none.code(), Code::kDeadline);
  EXPECT_THAT(none.status().message(), HasSubstr("no change is known of: etcd://"));
  cluster_->Start(0);
  Run(AwaitEtcd(b.get()));
  EXPECT_EQ(Run(b->Read("node/1", kTimeout))->value, "before");
  Result<CasOutcome> second = Run(b->CompareAndSwap("node/1", first->revision, "after", kTimeout));
  ASSERT_TRUE(second.ok() && second->kind == Kind::kStored);
  EXPECT_THAT(Run(NextValues(&watch, kTimeout)), testing::ElementsAre("after"));
  EXPECT_OK(a->went_back());
  a->EndWaits();
  Run(watch.Stop());
  EXPECT_OK(Run(a->Close()));
  EXPECT_OK(Run(b->Close()));
}

TEST_P(EtcdTest, CompactsWhatAWatchHasNotSeen) {
  Begin(1);
  auto a = Client();
  Result<TopologyListing> before = Run(a->List(kTimeout));
  Revision revision = 0;
  for (int i = 0; i < 5; ++i) {
    Result<CasOutcome> outcome = Run(a->CompareAndSwap("node/1", revision, std::to_string(i), kTimeout));
    ASSERT_TRUE(outcome.ok() && outcome->kind == Kind::kStored);
    revision = outcome->revision;
  }
  Result<TopologyChanges> changes = Run(a->WaitForChange(before->revision, kTimeout));
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_EQ(changes->entries.size(), 5u);
  EXPECT_EQ(changes->revision, revision);
  EXPECT_EQ(Post("/v3/kv/compaction", fmt::format(R"({{"revision":"{}"}})", revision)).status, 200);
  changes = Run(a->WaitForChange(before->revision, kTimeout));
  ASSERT_TRUE(changes.ok()) << changes.status().ToString();
  EXPECT_TRUE(changes->gap);
  EXPECT_OK(Run(a->Close()));
}

// Somebody removes a key with another tool.
TEST_P(EtcdTest, NoticesThatAKeyWasRemoved) {
  Begin(1);
  auto a = Client();
  TopologyWatch watch(a.get());
  EXPECT_EQ(Run(a->CompareAndSwap("node/1", 0, "here", kTimeout))->kind, Kind::kStored);
  EXPECT_THAT(Run(NextValues(&watch, kTimeout)), testing::ElementsAre("here"));
  const std::string key = Base64Encode("/pando/real/node/1");
  EXPECT_EQ(Post("/v3/kv/deleterange", fmt::format(R"({{"key":"{}"}})", key)).status, 200);
  EXPECT_EQ(Run(watch.Next(3 * kSecond)).code(), Code::kDeadline);
  EXPECT_THAT(watch.status().message(), HasSubstr("has gone back: node/1 is at revision 0"));
  EXPECT_FALSE(a->went_back().ok());
  EXPECT_EQ(watch.newest().at("node/1").value, "here");
  a->EndWaits();
  Run(watch.Stop());
  EXPECT_OK(Run(a->Close()));
}

// A stopped server takes requests and never answers.
TEST_P(EtcdTest, IsStoppedAndContinued) {
  Begin(1);
  auto a = Client();
  Result<CasOutcome> first = Run(a->CompareAndSwap("node/1", 0, "first", kTimeout));
  cluster_->Pause(0);
  Result<CasOutcome> outcome = Run(a->CompareAndSwap("node/1", first->revision, "second", kSecond));
  ASSERT_TRUE(outcome.ok()) << outcome.status().ToString();
  EXPECT_EQ(outcome->kind, Kind::kUnknown);
  EXPECT_EQ(Run(a->Read("node/1", kSecond)).code(), Code::kDeadline);
  cluster_->Continue(0);
  // The server acts on what it has received, or not; but it settles.
  Result<TopologyEntry> now = Run(a->Read("node/1", kTimeout));
  ASSERT_TRUE(now.ok()) << now.status().ToString();
  EXPECT_TRUE(now->value == "first" || now->value == "second");
  Result<CasOutcome> third = Run(a->CompareAndSwap("node/1", now->revision, "third", kTimeout));
  ASSERT_TRUE(third.ok());
  now = Run(a->Read("node/1", kTimeout));
  EXPECT_TRUE(third->kind == Kind::kStored ? now->value == "third" : now->value == "second");
  EXPECT_OK(Run(a->Close()));
}

// Three members: one of them is killed or stopped, again and again, under changes and a watch.
Task<void> CountUp(Topology* t, const bool* end, std::set<int>* stored, std::set<int>* unknown) {
  for (int next = 0; !*end; ++next) {
    Result<TopologyEntry> now = co_await t->Read("node/1", 3 * kSecond);
    if (!now.ok()) continue;
    Result<CasOutcome> outcome = co_await t->CompareAndSwap("node/1", now->revision, std::to_string(next), 3 * kSecond);
    if (!outcome.ok()) continue;
    if (outcome->kind == Kind::kStored) stored->insert(next);
    if (outcome->kind == Kind::kUnknown) unknown->insert(next);
    co_await Sleep(t->reactor(), 10 * kMillisecond);
  }
}
Task<void> Follow(TopologyWatch* watch, const bool* end, std::string* last) {
  Revision revision = 0;
  while (!*end) {
    Result<std::vector<TopologyEntry>> news = co_await watch->Next(100 * kMillisecond);
    if (!news.ok()) continue;
    EXPECT_GT(news->front().revision, revision);
    revision = news->front().revision;
    *last = news->front().value;
  }
}
Task<void> Harass(EtcdCluster* cluster, Reactor* reactor, bool* end) {
  for (size_t round = 0; round < 4; ++round) {
    const size_t member = round % cluster->size();
    if (round % 2 == 0) cluster->Kill(member);
    if (round % 2 == 1) cluster->Pause(member);
    co_await Sleep(*reactor, 2500 * kMillisecond);
    if (round % 2 == 0) cluster->Start(member);
    if (round % 2 == 1) cluster->Continue(member);
    co_await Sleep(*reactor, 1500 * kMillisecond);
  }
  *end = true;
}
Task<void> RunHarassed(EtcdCluster* cluster, Topology* writer, TopologyWatch* watch, std::set<int>* stored,
                       std::set<int>* unknown, std::string* last) {
  bool end = false;
  TaskGroup group;
  group.Spawn(Harass(cluster, &writer->reactor(), &end));
  group.Spawn(CountUp(writer, &end, stored, unknown));
  group.Spawn(Follow(watch, &end, last));
  co_await group.Drain();
}
TEST_P(EtcdTest, GoesOnWithTwoOfThreeMembers) {
  Begin(3);
  auto a = Client(), b = Client();
  TopologyWatch watch(a.get());
  std::set<int> stored, unknown;
  std::string last;
  Run(RunHarassed(cluster_.get(), b.get(), &watch, &stored, &unknown, &last));
  EXPECT_GT(stored.size(), 50u);
  Run(AwaitEtcd(b.get()));
  Result<TopologyEntry> now = Run(b->Read("node/1", kTimeout));
  ASSERT_TRUE(now.ok()) << now.status().ToString();
  const int newest = std::stoi(now->value);
  EXPECT_TRUE(stored.contains(newest) || unknown.contains(newest));
  EXPECT_GE(newest, *stored.rbegin()) << "a stored change was lost";
  for (int i = 0; i < 100 && watch.newest().at("node/1") != *now; ++i) {
    (void)Run(watch.Next(100 * kMillisecond));
  }
  EXPECT_EQ(watch.newest().at("node/1"), *now);
  EXPECT_OK(a->went_back());
  EXPECT_OK(b->went_back());
  a->EndWaits();
  Run(watch.Stop());
  EXPECT_OK(Run(a->Close()));
  EXPECT_OK(Run(b->Close()));
}

// A member that is cut off from the majority answers no reads with what it has.
TEST_P(EtcdTest, AMemberAloneIsUnavailable) {
  Begin(3);
  auto alone = ClientOf(0);
  EXPECT_EQ(Run(alone->CompareAndSwap("node/1", 0, "value", kTimeout))->kind, Kind::kStored);
  cluster_->Kill(1);
  cluster_->Kill(2);
  EXPECT_FALSE(Run(alone->Read("node/1", 2 * kSecond)).ok());
  EXPECT_FALSE(Run(alone->List(2 * kSecond)).ok());
  Result<CasOutcome> outcome = Run(alone->CompareAndSwap("node/2", 0, "value", 2 * kSecond));
  EXPECT_TRUE(!outcome.ok() || outcome->kind == Kind::kUnknown);
  EXPECT_OK(Run(alone->Close()));
}

// Certificates: an authority, another one, and a node's, in a directory that the test removes.
class Certificates {
 public:
  Certificates() {
    std::string pattern = (std::filesystem::current_path() / "certificates_XXXXXX").string();
    CHECK(mkdtemp(pattern.data())) << pattern;
    directory_ = pattern;
    const std::string script = fmt::format(
        "cd {} && K='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'; "
        "for name in ca other; do openssl req -x509 $K -keyout $name.key -out $name.pem -subj /CN=$name -days 2; done; "
        "openssl req $K -keyout node.key -out node.csr -subj /CN=node; "
        "echo subjectAltName=IP:127.0.0.1 > san; "
        "openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out node.pem -days 2 -extfile san",
        directory_);
    made_ = std::system(("(" + script + ") >/dev/null 2>&1").c_str()) == 0;
  }
  ~Certificates() { std::filesystem::remove_all(directory_); }
  bool made() const { return made_; }
  std::string operator/(const char* name) const { return directory_ + "/" + name; }
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  bool made_ = false;
};

TEST_P(EtcdTest, ThroughTls) {
  Certificates certificates;
  if (!certificates.made()) GTEST_SKIP() << "openssl cannot make certificates";
  cluster_ = std::make_unique<EtcdCluster>(GetParam()(), 1, certificates.directory());
  EtcdOptions options = Options();
  options.ca_file = certificates / "ca.pem";
  options.cert_file = certificates / "node.pem";
  options.key_file = certificates / "node.key";
  Topology known(*reactor_, ConnectToEtcd(*reactor_, options));
  Run(AwaitEtcd(&known));
  EXPECT_EQ(Run(known.CompareAndSwap("node/1", 0, "value", kTimeout))->kind, Kind::kStored);
  EXPECT_EQ(Run(known.Read("node/1", kTimeout))->value, "value");
  EXPECT_OK(Run(known.Close()));

  options.cert_file = options.key_file = "";
  Topology unknown(*reactor_, ConnectToEtcd(*reactor_, options));
  EXPECT_FALSE(Run(unknown.Read("node/1", kTimeout)).ok());
  EXPECT_OK(Run(unknown.Close()));

  options.ca_file = certificates / "other.pem";
  Topology deceived(*reactor_, ConnectToEtcd(*reactor_, options));
  Result<CasOutcome> outcome = Run(deceived.CompareAndSwap("node/1", 0, "value", kTimeout));
  EXPECT_EQ(outcome.code(), Code::kUnavailable) << "it was sent to a server that has not proved who it is";
  EXPECT_THAT(outcome.status().message(), HasSubstr("certificate"));
  EXPECT_OK(Run(deceived.Close()));
}

INSTANTIATE_TEST_SUITE_P(Real, EtcdTest, ::testing::Values(&EtcdOfDebian, &EtcdOfGo),
                         [](const auto& binary) { return binary.index == 0 ? "EtcdOfDebian" : "EtcdOfGo"; });

}  // namespace
}  // namespace pando::topology_test
