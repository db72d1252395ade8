// What VerifiedRows notices, on a store that is a map.
#include "tools/kvadmin/verified_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/btree/tree_node.h"
#include "src/model/key_space.h"
#include "tools/kvadmin/received_page.h"

namespace pando::admin {
namespace {

using testing::HasSubstr;
using testing::Not;

api::Row RowOf(const std::string& key, const std::string& value, int64_t version = 7, int64_t expires_at_ms = 0) {
  api::Row row;
  row.key = key;
  row.value = value;
  row.version = version;
  row.expires_at_ms = expires_at_ms;
  return row;
}

class VerifiedRowsTest : public testing::Test {
 protected:
  VerifiedRowsTest() {
    for (int i = 0; i < 100; ++i) {
      const std::string key = fmt::format("k{:02}", i);
      store_[key] = RowOf(key, std::string(static_cast<size_t>(i), 'v'), 1000 + i, i % 10 == 0 ? 1 << 30 : 0);
    }
  }

  // As a store adds them up.
  Result<api::AggregateReply> Aggregate(const api::AggregateRequest& request) {
    asked_.push_back(request);
    EXPECT_EQ(request.snapshot, "snapshot");
    EXPECT_LE(std::max(request.start_key.size(), request.end_key.size()), kMaxKeyBytes);
    api::AggregateReply reply;
    uint64_t hash = 0;
    for (const auto& [key, row] : store_) {
      if (key < request.start_key || (!request.end_key.empty() && key >= request.end_key)) continue;
      if (!key.starts_with(request.prefix)) continue;
      ++reply.count;
      reply.bytes += static_cast<int64_t>(key.size() + row.value.size());
      hash += RecordHash(KeySpace::Of(namespaced_).prefix(), key, Hash64(row.value), static_cast<Version>(row.version),
                         row.expires_at_ms);
    }
    reply.content_hash = static_cast<int64_t>(hash);
    return reply;
  }

  VerifiedRows Of(const std::string& start = "", const std::string& end = "", const std::string& prefix = "",
                  bool reverse = false) {
    return VerifiedRows(Range{start, end, prefix, "snapshot", ""}, reverse, Encoding::kText,
                        [this](const api::AggregateRequest& request) { return Aggregate(request); });
  }

  std::vector<api::Row> Rows(const std::string& from, const std::string& to) const {
    std::vector<api::Row> rows;
    for (auto at = store_.lower_bound(from); at != store_.lower_bound(to); ++at) rows.push_back(at->second);
    return rows;
  }

  std::map<std::string, api::Row> store_;
  bool namespaced_ = true;
  std::vector<api::AggregateRequest> asked_;
};

TEST_F(VerifiedRowsTest, TheRowsOfTheStoreAreThoseThatItCounts) {
  for (const bool namespaced : {true, false}) {
    namespaced_ = namespaced;
    VerifiedRows all = Of();
    all.Add(ViewsOf(Rows("", "k50")));
    EXPECT_TRUE(all.Check(false).ok());
    all.Add(ViewsOf(Rows("k50", "l")));
    EXPECT_TRUE(all.Check(true).ok());
    EXPECT_EQ(all.verified().count, 100u);
    const Result<api::AggregateReply> sums = Aggregate([] {
      api::AggregateRequest whole;
      whole.snapshot = "snapshot";
      return whole;
    }());
    EXPECT_EQ(all.verified().bytes, static_cast<uint64_t>(sums->bytes));
    EXPECT_EQ(all.verified().content_hash, static_cast<uint64_t>(sums->content_hash));
  }
}

// A store that counts rightly, but says that the hash is 0, is not believed because kvadmin computes one of the hashes
// only.
TEST_F(VerifiedRowsTest, AHashOfZeroIsNoHash) {
  for (const bool namespaced : {true, false}) {
    namespaced_ = namespaced;
    bool zero = false;
    VerifiedRows all(Range{"", "", "", "snapshot", ""}, /*reverse=*/false, Encoding::kText,
                     [&](const api::AggregateRequest& request) {
                       Result<api::AggregateReply> reply = Aggregate(request);
                       if (zero) reply->content_hash = 0;
                       return reply;
                     });
    all.Add(ViewsOf(Rows("", "k50")));
    ASSERT_TRUE(all.Check(false).ok());
    zero = true;
    all.Add(ViewsOf(Rows("k50", "l")));
    EXPECT_EQ(all.Check(true).code(), Code::kCorruption);
  }
}

// All keys of a store have a namespace, or none has.
TEST_F(VerifiedRowsTest, LaterPartsHaveTheHashOfTheFirst) {
  for (const bool namespaced : {true, false}) {
    namespaced_ = namespaced;
    VerifiedRows all = Of();
    EXPECT_TRUE(all.Check(false).ok()) << "no rows say nothing";
    all.Add(ViewsOf(Rows("", "k50")));
    EXPECT_TRUE(all.Check(false).ok());
    all.Add(ViewsOf(Rows("k50", "k60")));
    EXPECT_TRUE(all.Check(false).ok());
    all.Add(ViewsOf(Rows("k60", "l")));
    namespaced_ = !namespaced;
    EXPECT_EQ(all.Check(true).code(), Code::kCorruption);
  }
}

TEST_F(VerifiedRowsTest, RangesOfAllForms) {
  VerifiedRows part = Of("k2", "k35", "k3");
  part.Add(ViewsOf(Rows("k3", "k35")));
  EXPECT_TRUE(part.Check(true).ok());
  EXPECT_EQ(part.verified().count, 5u);
  VerifiedRows empty = Of("x");
  EXPECT_TRUE(empty.Check(false).ok());
  EXPECT_TRUE(empty.Check(true).ok());
  VerifiedRows limited = Of("k1");
  limited.Add(ViewsOf(Rows("k10", "k15")));
  EXPECT_TRUE(limited.Check(false).ok()) << "the scan ended at its limit";
  EXPECT_EQ(limited.verified().count, 5u);
  VerifiedRows reverse = Of("", "", "", true);
  for (const auto& [from, to] : {std::pair("k60", "z"), {"k20", "k60"}, {"", "k20"}}) {
    std::vector<api::Row> rows = Rows(from, to);
    std::reverse(rows.begin(), rows.end());
    reverse.Add(ViewsOf(rows));
    EXPECT_TRUE(reverse.Check(from == std::string()).ok()) << from;
  }
  EXPECT_EQ(reverse.verified().count, 100u);
}

TEST_F(VerifiedRowsTest, EveryAlterationIsNoticed) {
  const std::vector<std::pair<const char*, std::function<void(std::vector<api::Row>*)>>> alterations = {
      {"a row is left out", [](auto* rows) { rows->erase(rows->begin() + 5); }},
      {"the last row is left out", [](auto* rows) { rows->pop_back(); }},
      {"a row comes twice", [](auto* rows) { rows->push_back(rows->back()); }},
      {"one comes for another", [](auto* rows) { (*rows)[5] = (*rows)[6]; }},
      {"another value of equal size", [](auto* rows) { (*rows)[5].value[0] ^= 1; }},
      {"two values are exchanged", [](auto* rows) { std::swap((*rows)[5].value, (*rows)[6].value); }},
      {"another key of equal size", [](auto* rows) { (*rows)[5].key[2] = 'x'; }},
      {"an older version", [](auto* rows) { --(*rows)[5].version; }},
      {"another expiry", [](auto* rows) { ++(*rows)[0].expires_at_ms; }},
      {"no row", [](auto* rows) { rows->clear(); }},
  };
  for (const auto& [what, alter] : alterations) {
    VerifiedRows sums = Of();
    sums.Add(ViewsOf(Rows("", "k40")));
    ASSERT_TRUE(sums.Check(false).ok());
    std::vector<api::Row> rows = Rows("k40", "z");
    alter(&rows);
    sums.Add(ViewsOf(rows));
    const Status status = sums.Check(true);
    EXPECT_EQ(status.code(), Code::kCorruption) << what;
    EXPECT_THAT(status.message(), HasSubstr("from \"k39\\x00\" to the last key are not what the store counts")) << what;
    EXPECT_THAT(status.message(), HasSubstr("it counts 60 records")) << what;
    EXPECT_EQ(sums.verified().count, 40u) << what;
  }
}

TEST_F(VerifiedRowsTest, RowsAscendInTheirRange) {
  const Range range{"k2", "k4", "k", "snapshot", ""};
  const auto check = [&](const std::vector<std::string>& keys, const std::string& last) {
    std::vector<api::Row> rows;
    for (const std::string& key : keys) rows.push_back(RowOf(key, "v"));
    return CheckOrder(ViewsOf(rows), range, last, Encoding::kText);
  };
  EXPECT_TRUE(check({}, "").ok());
  EXPECT_TRUE(check({"k2", "k20", "k3"}, "").ok());
  EXPECT_TRUE(check({"k21", "k3"}, "k20").ok());
  for (const auto& [keys, last] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"k3", "k21"}, ""}, {{"k3", "k3"}, ""}, {{"k20"}, "k20"}, {{"k20", "k21"}, "k3"}}) {
    const Status status = check(keys, last);
    EXPECT_EQ(status.code(), Code::kCorruption) << keys.front();
    EXPECT_THAT(status.message(), HasSubstr("out of order")) << keys.front();
  }
  for (const std::string& key :
       {std::string(), std::string("k1"), std::string("k4"), std::string("l"), "k3" + std::string(kMaxKeyBytes, 'x')}) {
    const Status status = check({key}, "");
    EXPECT_EQ(status.code(), Code::kCorruption) << key;
    EXPECT_THAT(status.message(), HasSubstr("not in the range")) << key;
  }
  EXPECT_EQ(CheckOrder(ViewsOf({RowOf("", "v")}), Range{"", "", "", "snapshot", ""}, "", Encoding::kText).code(),
            Code::kCorruption);
  EXPECT_THAT(check({"k3", "k21"}, "").message(),
              HasSubstr("\"k21\", which is out of order: the row before has \"k3\""));
  EXPECT_THAT(check({"k1"}, "").message(), HasSubstr("\"k1\", which is not in the range"));
}

// No store has such a key; it must not be taken for one that fits in a buffer.
TEST_F(VerifiedRowsTest, AKeyBeyondTheGreatestLengthIsAMismatch) {
  store_.clear();
  VerifiedRows sums = Of();
  sums.Add(ViewsOf({RowOf(std::string(100'000, 'k'), "v")}));
  EXPECT_EQ(sums.Check(true).code(), Code::kCorruption);
}

TEST_F(VerifiedRowsTest, AKeyOfTheGreatestLengthEndsAPart) {
  const std::string longest(kMaxKeyBytes - 1, 'k');
  for (const char last : {'a', 'b', '\xff'}) store_[longest + last] = RowOf(longest + last, "v");
  store_["l"] = RowOf("l", "v");
  VerifiedRows sums = Of();
  for (auto& [key, row] : store_) {
    sums.Add({ViewOf(row)});
    EXPECT_TRUE(sums.Check(false).ok());
  }
  EXPECT_TRUE(sums.Check(true).ok());
  EXPECT_EQ(sums.verified().count, store_.size());
  EXPECT_EQ(KeyAfter("a"), std::string("a\0", 2));
  EXPECT_EQ(KeyAfter(std::string(kMaxKeyBytes, '\xff')), "");
}

TEST_F(VerifiedRowsTest, AStoreThatCannotTellIsNoMismatch) {
  Code code = Code::kUnavailable;
  VerifiedRows sums(
      Range{"", "", "", "snapshot", ""}, false, Encoding::kText,
      [&code](const api::AggregateRequest&) -> Result<api::AggregateReply> { return Error(code, "the answer"); });
  sums.Add(ViewsOf(Rows("", "z")));
  EXPECT_EQ(sums.Check(true).code(), Code::kUnavailable);
  code = Code::kUnsupported;
  EXPECT_THAT(sums.Check(true).message(), HasSubstr("older than this kvadmin"));
  EXPECT_THAT(sums.Check(true).message(), Not(HasSubstr("not what the store counts")));
}

}  // namespace
}  // namespace pando::admin
