// The exact bytes of requests to etcd, because it accepts misspelt ones silently; and answers as etcd
// 3.4 and 3.6 give them, with everything left out that they leave out.
#include "src/topology/etcd_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const EtcdKeys kKeys{"/pando/x/"};

TEST(EtcdWire, GoldenRequests) {
  EXPECT_EQ(EtcdSwapRequest(kKeys, "node/1", 7, "hello"),
            R"({"compare":[{"key":"L3BhbmRvL3gvbm9kZS8x","target":"MOD","result":"EQUAL","modRevision":"7"}],)"
            R"("success":[{"requestPut":{"key":"L3BhbmRvL3gvbm9kZS8x","value":"aGVsbG8="}}]})");
  EXPECT_EQ(EtcdReadRequest(kKeys, "node/1"),
            R"({"compare":[{"key":"L3BhbmRvL3gvbm9kZS8x","target":"VERSION","result":"LESS","version":"0"}],)"
            R"("success":[{"requestPut":{"key":"L3BhbmRvL3gvbm9kZS8x"}}],)"
            R"("failure":[{"requestRange":{"key":"L3BhbmRvL3gvbm9kZS8x"}}]})");
  EXPECT_EQ(EtcdListRequest(kKeys, 100),
            R"({"compare":[{"key":"L3BhbmRvL3gv","target":"VERSION","result":"LESS","version":"0"}],)"
            R"("success":[{"requestPut":{"key":"L3BhbmRvL3gv"}}],)"
            R"("failure":[{"requestRange":{"key":"L3BhbmRvL3gv","rangeEnd":"L3BhbmRvL3gw","limit":"100"}}]})");
  EXPECT_EQ(EtcdRevisionRequest(kKeys),
            R"({"compare":[{"key":"L3BhbmRvL3gv","target":"VERSION","result":"LESS","version":"0"}],)"
            R"("success":[{"requestPut":{"key":"L3BhbmRvL3gv"}}],)"
            R"("failure":[{"requestRange":{"key":"L3BhbmRvL3gv"}}]})");
  EXPECT_EQ(EtcdChangedRequest(kKeys, 8, 100),
            R"({"compare":[{"key":"L3BhbmRvL3gv","target":"VERSION","result":"LESS","version":"0"}],)"
            R"("success":[{"requestPut":{"key":"L3BhbmRvL3gv"}}],)"
            R"("failure":[{"requestRange":{"key":"L3BhbmRvL3gv","rangeEnd":"L3BhbmRvL3gw","limit":"100",)"
            R"("minModRevision":"8"}}]})");
  EXPECT_EQ(EtcdWatchRequest(kKeys, 8),
            R"({"createRequest":{"key":"L3BhbmRvL3gv","rangeEnd":"L3BhbmRvL3gw","startRevision":"8"}})");
}

TEST(EtcdWire, Answers) {
  Result<EtcdSwapAnswer> won = DecodeEtcdSwap(
      R"({"header":{"cluster_id":"10144879847569953045","member_id":"1","revision":"2","raft_term":"2"},"succeeded":true,)"
      R"("responses":[{"response_put":{"header":{"revision":"2"}}}]})");
  ASSERT_TRUE(won.ok()) << won.status().ToString();
  EXPECT_TRUE(won->succeeded);
  EXPECT_EQ(won->header.revision, 2u);
  EXPECT_EQ(won->header.cluster_id, 10144879847569953045ull);
  Result<EtcdSwapAnswer> lost = DecodeEtcdSwap(R"({"header":{"cluster_id":"1","revision":"2"}})");
  ASSERT_TRUE(lost.ok());
  EXPECT_FALSE(lost->succeeded);

  Result<EtcdRangeAnswer> range = DecodeEtcdRange(
      kKeys, R"({"header":{"cluster_id":"1","revision":"9"},"responses":[{"response_range":{"header":{"revision":"9"},)"
             R"("kvs":[{"key":"L3BhbmRvL3gvbm9kZS8x","create_revision":"2","mod_revision":"5","version":"1",)"
             R"("value":"aGVsbG8="},{"key":"L3BhbmRvL3gvbm9kZS8y","mod_revision":"6"}],"count":"2"}}]})");
  ASSERT_TRUE(range.ok()) << range.status().ToString();
  EXPECT_THAT(range->entries, ElementsAre(TopologyEntry{"node/1", "hello", 5}, TopologyEntry{"node/2", "", 6}));
  EXPECT_EQ(range->header.revision, 9u);
  EXPECT_EQ(range->count, 2u);
  Result<EtcdRangeAnswer> empty = DecodeEtcdRange(
      kKeys, R"({"header":{"cluster_id":"1","revision":"9"},"responses":[{"response_range":{"header":{}}}]})");
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty->entries.empty());
}

TEST(EtcdWire, WatchLines) {
  Result<EtcdWatchLine> created =
      DecodeEtcdWatch(kKeys, R"({"result":{"header":{"cluster_id":"1","revision":"6"},"created":true}})");
  ASSERT_TRUE(created.ok());
  EXPECT_TRUE(created->created);
  EXPECT_TRUE(created->entries.empty());
  Result<EtcdWatchLine> compacted = DecodeEtcdWatch(
      kKeys, R"({"result":{"header":{"cluster_id":"1","raft_term":"2"},"canceled":true,"compact_revision":"5"}})");
  ASSERT_TRUE(compacted.ok());
  EXPECT_TRUE(compacted->canceled);
  EXPECT_EQ(compacted->compacted, 5u);
  Result<EtcdWatchLine> events = DecodeEtcdWatch(
      kKeys, R"({"result":{"header":{"cluster_id":"1","revision":"7"},"events":[{"kv":{"key":"L3BhbmRvL3gvbm9kZS8x",)"
             R"("mod_revision":"6","value":"aGVsbG8="}},{"type":"DELETE","kv":{"key":"L3BhbmRvL3gvbm9kZS8x",)"
             R"("mod_revision":"7"}}]}})");
  ASSERT_TRUE(events.ok()) << events.status().ToString();
  EXPECT_TRUE(events->deleted);
  EXPECT_THAT(events->entries, ElementsAre(TopologyEntry{"node/1", "hello", 6}, TopologyEntry{"node/1", "", 7}));
  Result<EtcdWatchLine> failed = DecodeEtcdWatch(
      kKeys, R"({"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"x"}})");
  ASSERT_TRUE(failed.ok());
  EXPECT_TRUE(failed->canceled);
  EXPECT_EQ(failed->reason, "etcdserver: no leader");
}

TEST(EtcdWire, RefusesOtherAnswers) {
  const char* kHeader = R"("header":{"cluster_id":"1","revision":"9"})";
  const std::string kBad[] = {
      "",
      "<html>502 Bad Gateway</html>",
      "[]",
      "{}",
      R"({"header":{}})",
      R"({"header":{"cluster_id":1,"revision":"9"}})",
      R"({"header":{"cluster_id":"1","revision":"9x"}})",
      R"({"header":{"cluster_id":"1","revision":"99999999999999999999"}})",
      fmt::format(R"({{{},"succeeded":"true"}})", kHeader),
      std::string(100'000, '['),
  };
  for (const std::string& body : kBad) {
    Result<EtcdSwapAnswer> answer = DecodeEtcdSwap(body);
    EXPECT_EQ(answer.code(), Code::kCorruption) << body.substr(0, 100);
    EXPECT_LT(answer.status().message().size(), 400u);
    EXPECT_EQ(DecodeEtcdRange(kKeys, body).code(), Code::kCorruption);
    EXPECT_EQ(DecodeEtcdWatch(kKeys, body).code(), Code::kCorruption);
  }
  EXPECT_EQ(DecodeEtcdSwap(R"({"header":{"cluster_id":"1"},"succeeded":true})").code(), Code::kCorruption);
  const char* kBadRanges[] = {
      R"([])",
      R"([{}])",
      R"([{"response_put":{}}])",
      R"([{"response_range":{}},{"response_range":{}}])",
      R"([{"response_range":{"kvs":{}}}])",
      R"([{"response_range":{"kvs":[1]}}])",
      R"([{"response_range":{"count":2}}])",
      R"([{"response_range":{"kvs":[{"key":"L3BhbmRvL3gvYQ=="}]}}])",                   // no revision
      R"([{"response_range":{"kvs":[{"key":"L290aGVyL2E=","mod_revision":"3"}]}}])",    // another prefix
      R"([{"response_range":{"kvs":[{"key":"L3BhbmRvL3g/!!","mod_revision":"3"}]}}])",  // not base64
      R"([{"response_range":{"kvs":[{"key":"L3BhbmRvL3gvYQ==","mod_revision":"3","value":5}]}}])",
  };
  for (const char* responses : kBadRanges) {
    const std::string body = fmt::format(R"({{{},"responses":{}}})", kHeader, responses);
    EXPECT_EQ(DecodeEtcdRange(kKeys, body).code(), Code::kCorruption) << body;
  }
}

TEST(EtcdWire, Errors) {
  EtcdError error = DecodeEtcdError(R"({"error":"x","message":"etcdserver: permission denied","code":7})");
  EXPECT_EQ(error.message, "etcdserver: permission denied");
  EXPECT_TRUE(error.IsRefusal());
  // It may have been proposed before.
  EXPECT_FALSE(DecodeEtcdError(R"({"message":"etcdserver: request timed out","code":14})").IsRefusal());
  error = DecodeEtcdError("<html>\n\x01nginx</html>" + std::string(1000, 'x'));
  EXPECT_FALSE(error.IsRefusal());
  EXPECT_THAT(error.message, HasSubstr("<html>??nginx"));
  EXPECT_LT(error.message.size(), 250u);
}

}  // namespace
}  // namespace pando
