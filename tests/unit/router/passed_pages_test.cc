// Tests pages of scans that one node has: the router passes their rows on as they came, and lets nothing through that
// it would not let through row by row.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/fake_range_nodes.h"

namespace pando {
namespace {

using testing::HasSubstr;

const auto& kConst = api::g_pando_constants;

class PassedPagesTest : public RangeTest {
 protected:
  PassedPagesTest() : RangeTest(8, /*nodes=*/1) {}
  void Fill(int count, size_t value_bytes = 5) {
    for (int i = 0; i < count; ++i) {
      rows_.emplace_back(fmt::format("k/{:05}", i), std::string(value_bytes, static_cast<char>('a' + i % 26)));
      nodes_->Put(rows_.back().first, rows_.back().second);
    }
  }
  // All pages, as a client with this connection sees them.
  std::vector<std::pair<std::string, std::string>> ScanRows(RpcClient* client, api::ScanRequest request) {
    std::vector<std::pair<std::string, std::string>> rows;
    do {
      api::Kv_scan_args args;
      args.context.budget_ms = 2000;
      args.request = request;
      api::Kv_scan_result reply;
      const auto status = kernel_.RunTask(*at_client_, client->Call("scan", &args, &reply, 60 * kSecond));
      CHECK(status && status->ok()) << status->ToString();
      EXPECT_TRUE(reply.__isset.success) << reply.error.message;
      if (!reply.__isset.success) break;
      EXPECT_GT(reply.success.context.session.size(), 0u);
      for (const api::Row& row : reply.success.rows) rows.emplace_back(row.key, row.value);
      request.cursor = reply.success.cursor;
    } while (!request.cursor.empty());
    return rows;
  }
  std::unique_ptr<RpcClient> Connect(WireProtocol protocol) {
    RpcClientOptions options;
    options.protocol = protocol;
    auto client = std::make_unique<RpcClient>(*at_client_, std::move(options));
    CHECK(kernel_.RunTask(*at_client_, client->Connect("10.0.1.1", port_, kSecond))->ok());
    return client;
  }
  std::vector<std::pair<std::string, std::string>> rows_;
};

TEST_F(PassedPagesTest, AllProtocolsDirectionsAndLimitsGiveTheSameRows) {
  Fill(500, 40);
  auto backwards = rows_;
  std::reverse(backwards.begin(), backwards.end());
  for (const WireProtocol protocol : {WireProtocol::kBinary, WireProtocol::kOldBinary, WireProtocol::kCompact}) {
    SCOPED_TRACE(static_cast<int>(protocol));
    const std::unique_ptr<RpcClient> client = Connect(protocol);
    for (const bool take : {false, true}) {
      nodes_->take_frames = take;
      api::ScanRequest request;
      EXPECT_EQ(ScanRows(client.get(), request), rows_);
      request.limit_rows = 70;
      EXPECT_EQ(ScanRows(client.get(), request), rows_);
      request.limit_bytes = 333;
      EXPECT_EQ(ScanRows(client.get(), request), rows_);
      request.reverse = true;
      EXPECT_EQ(ScanRows(client.get(), request), backwards);
      request.end_key = "k/00100";
      EXPECT_EQ(ScanRows(client.get(), request).size(), 100u);
      request = {};
      request.start_key = "l";
      EXPECT_TRUE(ScanRows(client.get(), request).empty());
      for (request.slices = 5, request.start_key = ""; request.slice < 4; ++request.slice) {
        EXPECT_LT(ScanRows(client.get(), request).size(), 200u);
      }
    }
    kernel_.RunTask(*at_client_, client->Close());
  }
}

TEST_F(PassedPagesTest, RowsComeWithEverythingThatTheyHave) {
  WriteOp op;
  op.key = "expires";
  op.value = std::string("\0\xff", 2);
  op.ttl_mode = TtlMode::kSet;
  op.expires_at_ms = 1'900'000'000'000;
  nodes_->Of(op.key).WriteNow(op);
  auto reply = Scan({});
  ASSERT_EQ(reply->success.rows.size(), 1u) << reply->error.message;
  const api::Row& row = reply->success.rows[0];
  EXPECT_EQ(row.value, op.value);
  EXPECT_EQ(row.expires_at_ms, op.expires_at_ms);
  EXPECT_GT(row.version, 0);
  EXPECT_TRUE(reply->success.cursor.empty());
  api::ScanRequest request;
  request.keys_only = true;
  EXPECT_EQ(Scan(request)->success.rows.at(0).value, "");
  request.sizes_only = true;
  EXPECT_EQ(Scan(request)->success.rows.at(0).value_bytes, 2);
}

// A node that does not keep to the limit of bytes makes no page larger than it may be.
TEST_F(PassedPagesTest, APageIsCutToItsLimit) {
  Fill(100, 100);
  api::ScanRequest request;
  request.limit_bytes = 1000;
  nodes_->limit_bytes = 1 << 20;
  auto reply = Scan(request);
  EXPECT_EQ(reply->success.rows.size(), 9u);
  EXPECT_EQ(ScanRows(client_.get(), request), rows_);
  // One row may have more.
  nodes_->Put("a", std::string(5000, 'x'));
  reply = Scan(request);
  EXPECT_EQ(reply->success.rows.size(), 1u);
  EXPECT_EQ(reply->success.rows[0].value.size(), 5000u);
  EXPECT_FALSE(reply->success.cursor.empty());
}

TEST_F(PassedPagesTest, NoLieOfANodeComesThrough) {
  Fill(200);
  using Reply = api::Routing_scanPartitions_result;
  using Tamper = void (*)(Reply*);
  const std::map<std::string, Tamper> tampers = {
      {"half the partitions", [](Reply* r) { r->success.covered.resize(r->success.covered.size() / 2); }},
      {"nothing", [](Reply* r) { r->success = api::ScanPartitionsReply(), r->success.exhausted = true; }},
      {"no order", [](Reply* r) { std::swap(r->success.rows[7], r->success.rows[8]); }},
      {"a row twice", [](Reply* r) { r->success.rows.insert(r->success.rows.begin(), r->success.rows.front()); }},
      {"a row before the range", [](Reply* r) { r->success.rows.front().key = "a"; }},
      {"a row after the range", [](Reply* r) { r->success.rows.back().key = "l"; }},
      {"a row without a key", [](Reply* r) { r->success.rows.front().key = ""; }},
      {"a key that is too long", [](Reply* r) { r->success.rows.front().key.resize(kMaxKeyBytes + 1, 'x'); }},
      {"more without rows", [](Reply* r) { r->success.rows.clear(), r->success.exhausted = false; }},
      {"too many rows", [](Reply* r) { r->success.rows.resize(20'000); }},
      {"an end outside", [](Reply* r) { r->success.exhausted = false, r->success.examined_to = "a"; }},
      {"an end without a slice", [](Reply* r) { r->success.exhausted = false, r->success.examined_to = "k/zzz"; }},
  };
  api::ScanRequest request;
  request.prefix = "k/";
  for (const auto& [name, tamper] : tampers) {
    SCOPED_TRACE(name);
    int left = 1;
    nodes_->tamper_scan = [&, tamper = tamper](NodeId, const auto&, Reply* reply) {
      if (left-- > 0) tamper(reply);
    };
    EXPECT_EQ(ScanAll(request).size(), rows_.size()) << "it is asked again";
    nodes_->tamper_scan = [tamper = tamper](NodeId, const auto&, Reply* reply) { tamper(reply); };
    auto reply = Scan(request, 300);
    EXPECT_FALSE(reply->__isset.success);
    EXPECT_EQ(reply->error.code, kConst.UNAVAILABLE) << reply->error.message;
    nodes_->tamper_scan = {};
  }
}

TEST_F(PassedPagesTest, NoPageEndsAfterAKeyThatIsTooLong) {
  Fill(200);
  api::ScanRequest request;
  request.prefix = "k/";
  request.slices = 2;
  for (const size_t bytes : {kMaxKeyBytes, kMaxKeyBytes + 1}) {
    nodes_->tamper_scan = [bytes](NodeId, const auto&, api::Routing_scanPartitions_result* reply) {
      reply->success.exhausted = false;
      reply->success.examined_to = "k/" + std::string(bytes - 2, 'x');
    };
    EXPECT_EQ(Scan(request, 300)->__isset.success, bytes == kMaxKeyBytes) << bytes;
  }
}

// Bytes that no node sends: the answer is refused, or is a page that is right.
TEST_F(PassedPagesTest, DamagedBytesAreRefusedOrHarmless) {
  Fill(20);
  const auto damage = [this](const std::function<void(std::string*)>& how) {
    nodes_->tamper_bytes = [how](NodeId, std::string* bytes) { how(bytes); };
    auto reply = Scan({}, 50);
    if (!reply->__isset.success) return;
    std::vector<std::string> keys;
    for (const api::Row& row : reply->success.rows) keys.push_back(row.key);
    EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
    EXPECT_LE(keys.size(), rows_.size() + 1);
  };
  size_t size = 0;
  nodes_->tamper_bytes = [&size](NodeId, std::string* bytes) { size = bytes->size(); };
  ASSERT_TRUE(Scan({})->__isset.success);
  for (size_t i = 0; i < size; i += 1 + i / 40) {
    SCOPED_TRACE(i);
    damage([i](std::string* bytes) { bytes->resize(i); });
    EXPECT_FALSE(Scan({}, 50)->__isset.success) << "it is cut short";
    for (const char c : {'\0', '\1', '\x0b', '\x0c', '\x0f', '\x7f', '\xff'}) {
      damage([i, c](std::string* bytes) { (*bytes)[i] = c; });
    }
  }
  // The field `rows` a second time.
  damage([](std::string* bytes) { bytes->insert(3, std::string("\x0f\0\1\x0c\0\0\0\1\0", 9)); });
  EXPECT_FALSE(Scan({}, 50)->__isset.success);
  // Structs in structs, deeper than any that there is.
  damage([](std::string* bytes) {
    std::string nested;
    for (int i = 0; i < 100'000; ++i) nested += std::string("\x0c\0\x63", 3);
    *bytes = std::string("\x0c\0\0\x0f\0\1\x0c\0\0\0\1", 11) + nested;
  });
  EXPECT_FALSE(Scan({}, 50)->__isset.success);
}

// Of two keys of a row, a reader might take either.
TEST_F(PassedPagesTest, ARowHasEachFieldOnce) {
  Fill(1);
  nodes_->tamper_bytes = [this](NodeId, std::string* bytes) {
    const size_t row = bytes->find(std::string("\x0f\0\1\x0c\0\0\0\1", 8)) + 8;
    const std::string key("\x0b\0\1\0\0\0", 6);
    ASSERT_EQ(bytes->substr(row, key.size()), key);
    bytes->insert(row, key + std::string(1, static_cast<char>(rows_[0].first.size())) + rows_[0].first);
  };
  EXPECT_FALSE(Scan({}, 50)->__isset.success);
}

// Rows of a newer version may have more fields. They come through as they are.
TEST_F(PassedPagesTest, UnknownFieldsOfRowsAreNoObstacle) {
  Fill(1);
  nodes_->tamper_bytes = [](NodeId, std::string* bytes) {
    // The only row ends before the fields of the page, the first of which is `exhausted`.
    const size_t page = bytes->find(std::string("\x02\0\2\1", 4));
    ASSERT_NE(page, std::string::npos);
    const size_t row = page - 1;
    bytes->insert(row, std::string("\x0b\0\x63\0\0\0\2hi", 9));
  };
  auto reply = Scan({});
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  ASSERT_EQ(reply->success.rows.size(), 1u);
  EXPECT_EQ(reply->success.rows[0].key, rows_[0].first);
  EXPECT_EQ(reply->success.rows[0].value, rows_[0].second);
}

}  // namespace
}  // namespace pando
