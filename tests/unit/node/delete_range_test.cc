// Tests deleteRange, sizes-only scans, and multiGet in a snapshot: over the wire protocol, with
// fake partitions on two reactors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/support/fake_node.h"

namespace pando {
namespace {

using testing::HasSubstr;

class KvRangeTest : public FakeNodeTest {
 protected:
  std::unique_ptr<api::Kv_deleteRange_result> DeleteRange(const api::DeleteRangeRequest& request,
                                                          const api::Context& context = {}) {
    api::Kv_deleteRange_args args;
    args.context = context;
    args.request = request;
    return CallFor<api::Kv_deleteRange_result>("deleteRange", args);
  }
  std::set<std::string> Keys() {
    std::set<std::string> keys;
    for (auto& fake : node_->fakes) {
      for (const auto& [key, record] : fake->records) keys.insert(key);
    }
    return keys;
  }
  // Repeats the call until the cursor is empty. Returns the number of records removed.
  int64_t DeleteAll(api::DeleteRangeRequest args, size_t* calls = nullptr) {
    int64_t removed = 0;
    do {
      auto reply = DeleteRange(args);
      EXPECT_TRUE(reply->__isset.success) << reply->error.message;
      if (!reply->__isset.success) break;
      removed += reply->success.removed;
      args.cursor = reply->success.cursor;
      if (calls) ++*calls;
    } while (!args.cursor.empty());
    return removed;
  }
};
INSTANTIATE_TEST_SUITE_P(Wire, KvRangeTest, testing::Values(WireProtocol::kBinary, WireProtocol::kCompact));

TEST_P(KvRangeTest, RemovesARangeAndNothingElse) {
  std::set<std::string> rest;
  for (int i = 0; i < 300; ++i) {
    Put(fmt::format("in/{:04}", i), "v");
    Put(fmt::format("out/{:04}", i), "v");
    Put(fmt::format("{{tag}}/{:04}", i), "v");
    rest.insert(fmt::format("out/{:04}", i));
    if (i >= 10 && i < 250) continue;
    rest.insert(fmt::format("{{tag}}/{:04}", i));
  }
  api::DeleteRangeRequest args;
  args.prefix = "in/";
  args.limit_rows = 70;
  size_t calls = 0;
  EXPECT_EQ(DeleteAll(args, &calls), 300);
  EXPECT_GE(calls, 5u);
  args = {};
  args.prefix = "{tag}";
  args.start_key = "{tag}/0010";
  args.end_key = "{tag}/0250";
  uint64_t before = 0, after = 0;
  for (auto& fake : node_->fakes) before += fake->scans;
  EXPECT_EQ(DeleteAll(args), 240);
  for (auto& fake : node_->fakes) after += fake->scans;
  EXPECT_EQ(after - before, 1u) << "one partition holds the tag";
  EXPECT_EQ(Keys(), rest);
  EXPECT_EQ(DeleteAll(args), 0) << "nothing is left to remove";
}

TEST_P(KvRangeTest, SparesWhatIsNewerThanAsked) {
  for (int i = 0; i < 50; ++i) Put("k" + std::to_string(i), "old");
  auto snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", api::Kv_openSnapshot_args())->success;
  std::set<std::string> newer;
  for (int i = 0; i < 100; i += 3) {
    Put("k" + std::to_string(i), "new");
    newer.insert("k" + std::to_string(i));
  }
  api::DeleteRangeRequest args;
  args.max_version = snapshot.version;
  args.limit_rows = 10;
  EXPECT_EQ(DeleteAll(args), 50 - 17);
  EXPECT_EQ(Keys(), newer);
}

TEST_P(KvRangeTest, WhatIsWrittenBetweenReadingAndRemovingSurvives) {
  for (int i = 0; i < 100; ++i) Put(fmt::format("k{:02}", i), "old");
  auto snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", api::Kv_openSnapshot_args())->success;
  // While the call runs, every record is written once more.
  for (int i = 0; i < 100; ++i) {
    kernel_.At(kernel_.now_ns() + i * 20 * kMicrosecond, SimKernel::kNoBoot, [this, i] {
      WriteOp op;
      op.key = fmt::format("k{:02}", i);
      op.value = "new";
      node_->PartitionOf(op.key).WriteNow(op);
    });
  }
  api::DeleteRangeRequest request;
  // Spares the records that are written again before their keys are read.
  request.max_version = snapshot.version;
  auto reply = DeleteRange(request);
  ASSERT_TRUE(reply->__isset.success) << reply->error.message;
  kernel_.RunFor(kSecond);
  EXPECT_EQ(Keys().size(), 100u)
      << "every record survives, whether it was written before its key was read, before its removal, or after";
  EXPECT_GT(reply->success.removed, 0);
  EXPECT_LT(reply->success.removed, 100) << "no record was written during the call";
}

TEST_P(KvRangeTest, FailuresAndBadRequests) {
  for (int i = 0; i < 100; ++i) Put("k" + std::to_string(i), "v");
  const auto& c = api::g_pando_constants;
  api::DeleteRangeRequest args;
  args.limit_rows = -1;
  EXPECT_EQ(DeleteRange(args)->error.code, c.BAD_REQUEST);
  args = {};
  args.max_version = -1;
  EXPECT_EQ(DeleteRange(args)->error.code, c.BAD_REQUEST);
  args = {};
  args.start_key.assign(3000, 'k');
  EXPECT_EQ(DeleteRange(args)->error.code, c.TOO_LARGE);
  args = {};
  api::Context context;
  context.level = c.LEVEL_LINEARIZABLE;
  EXPECT_THAT(DeleteRange(args, context)->error.message, HasSubstr("is for reads"));
  args = {};
  args.limit_rows = 10;
  args.cursor = DeleteRange(args)->success.cursor;
  ASSERT_FALSE(args.cursor.empty());
  args.max_version = 7;
  EXPECT_EQ(DeleteRange(args)->error.code, c.BAD_CURSOR) << "a cursor is also bound to its max_version";
  args.max_version = 0;
  api::Kv_scan_args scan;
  scan.request.cursor = args.cursor;
  EXPECT_EQ(CallFor<api::Kv_scan_result>("scan", scan)->error.code, c.BAD_CURSOR)
      << "a cursor also belongs to its method";

  node_->fakes[3]->write_failure = Status(Code::kAborted, "the log failed");
  args = {};
  auto failed = DeleteRange(args);
  EXPECT_EQ(failed->error.code, c.UNAVAILABLE);
  EXPECT_EQ(failed->error.applied, c.APPLIED_UNKNOWN);
  EXPECT_TRUE(failed->error.retryable) << "a retry is harmless";
  node_->fakes[3]->write_failure = Status();
  node_->fakes[3]->failure = Status(Code::kUnavailable, "closing");
  failed = DeleteRange(args);
  EXPECT_EQ(failed->error.applied, c.APPLIED_NO) << "the read failed already";
  node_->fakes[3]->failure = Status();
  DeleteAll({});
  EXPECT_TRUE(Keys().empty());
}

TEST_P(KvRangeTest, AFullDiskTakesAFewRemovesAtATime) {
  for (int i = 0; i < 1000; ++i) Put(fmt::format("k{:03}", i), "v");
  for (auto& fake : node_->fakes) fake->ops_with_room = 3;
  EXPECT_EQ(DeleteAll({}), 1000);
  EXPECT_TRUE(Keys().empty());
}

// What one partition refuses does not hide what the others have removed.
TEST_P(KvRangeTest, SaysWhatWasRemovedBeforeTheRefusal) {
  const auto& c = api::g_pando_constants;
  for (int first_refused : {0, 20}) {
    for (int i = 0; i < 300; ++i) Put(fmt::format("k{:03}", i), "v");
    const std::string key = fmt::format("k{:03}", first_refused);
    FakePartition& full = node_->PartitionOf(key);
    const auto left = static_cast<int64_t>(full.records.size());
    full.ops_with_room = 0;
    api::DeleteRangeRequest args;
    args.prefix = "k";
    auto reply = DeleteRange(args);
    ASSERT_TRUE(reply->__isset.success) << reply->error.message;
    EXPECT_EQ(reply->success.removed, 300 - left);
    EXPECT_EQ(static_cast<int64_t>(Keys().size()), left);
    args.cursor = reply->success.cursor;
    ASSERT_FALSE(args.cursor.empty());
    reply = DeleteRange(args);
    ASSERT_TRUE(reply->__isset.error);
    EXPECT_EQ(reply->error.code, c.DISK_FULL);
    EXPECT_EQ(reply->error.applied, c.APPLIED_NO) << "nothing else was there to be removed";
    full.ops_with_room = SIZE_MAX;
    EXPECT_EQ(DeleteAll(args), left) << "the cursor has passed over what was refused";
    EXPECT_TRUE(Keys().empty());
  }
}

TEST_P(KvRangeTest, SizesWithoutValues) {
  for (int i = 0; i < 100; ++i) Put(fmt::format("k{:02}", i), std::string(static_cast<size_t>(i) * 100, 'v'));
  api::Kv_scan_args args;
  args.request.sizes_only = true;
  args.request.limit_bytes = 200;
  int next = 0;
  do {
    auto page = CallFor<api::Kv_scan_result>("scan", args);
    ASSERT_TRUE(page->__isset.success) << page->error.message;
    EXPECT_GE(page->success.rows.size() + (page->success.cursor.empty() ? 100 : 0), 60u)
        << "only bytes that are sent count toward limit_bytes";
    for (const api::Row& row : page->success.rows) {
      EXPECT_EQ(row.key, fmt::format("k{:02}", next));
      EXPECT_EQ(row.value, "");
      ASSERT_TRUE(row.__isset.value_bytes);
      EXPECT_EQ(row.value_bytes, 100 * next);
      ++next;
    }
    args.request.cursor = page->success.cursor;
  } while (!args.request.cursor.empty());
  EXPECT_EQ(next, 100);
  args.request = {};
  args.request.limit_rows = 1;
  EXPECT_FALSE(CallFor<api::Kv_scan_result>("scan", args)->success.rows.at(0).__isset.value_bytes);
}

TEST_P(KvRangeTest, MultiGetInASnapshot) {
  api::Kv_multiGet_args args;
  for (int i = 0; i < 60; ++i) {
    args.request.keys.push_back("k" + std::to_string(i));
    if (i < 50) Put(args.request.keys.back(), "old");
  }
  auto snapshot = CallFor<api::Kv_openSnapshot_result>("openSnapshot", api::Kv_openSnapshot_args())->success;
  for (const std::string& key : args.request.keys) Put(key, "new");
  args.request.snapshot = snapshot.snapshot;
  auto items = CallFor<api::Kv_multiGet_result>("multiGet", args)->success.items;
  ASSERT_EQ(items.size(), 60u);
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_EQ(items[i].record.found, i < 50) << i;
    EXPECT_EQ(items[i].record.value, i < 50 ? "old" : "");
  }
  args.request.snapshot = "nonsense";
  EXPECT_EQ(CallFor<api::Kv_multiGet_result>("multiGet", args)->error.code, api::g_pando_constants.BAD_REQUEST);
  api::Kv_releaseSnapshot_args release;
  release.request.snapshot = snapshot.snapshot;
  CallFor<api::Kv_releaseSnapshot_result>("releaseSnapshot", release);
  args.request.snapshot = snapshot.snapshot;
  auto gone = CallFor<api::Kv_multiGet_result>("multiGet", args);
  EXPECT_EQ(gone->error.code, api::g_pando_constants.SNAPSHOT_GONE) << "the whole request fails, not single keys";
}

}  // namespace
}  // namespace pando
