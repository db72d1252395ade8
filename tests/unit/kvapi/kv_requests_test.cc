// Tests which requests are refused and with which message, and the conversion of results and
// errors.
#include "src/kvapi/kv_requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <tuple>

#include "gen-cpp/pando_constants.h"
#include "src/kvapi/kv_errors.h"

namespace pando {
namespace {

using testing::HasSubstr;

std::string Message(const Refusal& refusal) { return refusal ? refusal->message : ""; }
int32_t CodeOf(const Refusal& refusal) { return refusal ? refusal->code : 0; }

TEST(ApiConstants, AreThoseOfTheIdl) {
  const auto& c = api::g_pando_constants;
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kBadRequest), c.BAD_REQUEST);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kTooLarge), c.TOO_LARGE);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kUnauthenticated), c.UNAUTHENTICATED);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kDenied), c.DENIED);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kTokenMismatch), c.TOKEN_MISMATCH);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kSnapshotGone), c.SNAPSHOT_GONE);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kFeedGone), c.FEED_GONE);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kOverloaded), c.OVERLOADED);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kDeadline), c.DEADLINE);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kUnavailable), c.UNAVAILABLE);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kBadCursor), c.BAD_CURSOR);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kDiskFull), c.DISK_FULL);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kCorrupt), c.CORRUPT);
  EXPECT_EQ(static_cast<int32_t>(ApiCode::kInternal), c.INTERNAL);
  EXPECT_EQ(static_cast<int32_t>(ApiApplied::kNo), c.APPLIED_NO);
  EXPECT_EQ(static_cast<int32_t>(ApiApplied::kYes), c.APPLIED_YES);
  EXPECT_EQ(static_cast<int32_t>(ApiApplied::kUnknown), c.APPLIED_UNKNOWN);
  EXPECT_EQ(static_cast<int32_t>(TtlMode::kKeep), c.TTL_KEEP);
  EXPECT_EQ(static_cast<int32_t>(TtlMode::kSet), c.TTL_SET);
  EXPECT_EQ(static_cast<int32_t>(TtlMode::kClear), c.TTL_CLEAR);
  EXPECT_EQ(c.TTL_SET_ABSOLUTE, 3);
}

TEST(KvErrors, SayWhetherAWriteWasApplied) {
  struct Case {
    Code code;
    ApiCode api;
    ApiApplied applied;
    bool retryable;
  };
  for (const Case& c : {Case{Code::kDiskFull, ApiCode::kDiskFull, ApiApplied::kNo, false},
                        Case{Code::kOverloaded, ApiCode::kOverloaded, ApiApplied::kNo, true},
                        Case{Code::kUnavailable, ApiCode::kUnavailable, ApiApplied::kNo, true},
                        Case{Code::kDeadline, ApiCode::kDeadline, ApiApplied::kNo, true},
                        Case{Code::kAborted, ApiCode::kUnavailable, ApiApplied::kUnknown, false},
                        Case{Code::kCorruption, ApiCode::kCorrupt, ApiApplied::kNo, false},
                        Case{Code::kIoError, ApiCode::kInternal, ApiApplied::kNo, false},
                        Case{Code::kInvalidArgument, ApiCode::kBadRequest, ApiApplied::kNo, false}}) {
    api::KvError write = ToKvError(Status(c.code, "because"), true);
    EXPECT_EQ(write.code, static_cast<int32_t>(c.api)) << CodeName(c.code);
    EXPECT_EQ(write.applied, static_cast<int32_t>(c.applied)) << CodeName(c.code);
    EXPECT_EQ(write.retryable, c.retryable) << CodeName(c.code);
    EXPECT_EQ(write.message, "because");
    EXPECT_EQ(write.retry_after_ms > 0, (c.retryable && c.code != Code::kDeadline) || c.code == Code::kAborted);
    EXPECT_EQ(ToKvError(Status(c.code, ""), false).applied, static_cast<int32_t>(ApiApplied::kNo));
  }
}

TEST(KvRequests, KeysAndValues) {
  EXPECT_THAT(Message(CheckKey("")), HasSubstr("keys have 1 to 2048 bytes"));
  EXPECT_FALSE(CheckKey(std::string(2048, 'k')));
  EXPECT_EQ(Message(CheckKey(std::string(2049, 'k'))), "the key has 2049 bytes; the limit is 2048 (max_key_bytes)");
  api::PutRequest put;
  put.key = "k";
  put.value.assign(kMaxValueBytes + 1, 'v');
  WriteOp op;
  Refusal refusal = ToWriteOp(put, &op);
  EXPECT_EQ(CodeOf(refusal), api::g_pando_constants.TOO_LARGE);
  EXPECT_EQ(Message(refusal), "the value has 1048577 bytes; the limit is 1048576 (max_value_bytes)");
  put.key = "k";
  put.value.assign(kMaxValueBytes, 'v');
  EXPECT_FALSE(ToWriteOp(put, &op));
  EXPECT_EQ(op.value.size(), kMaxValueBytes);
}

TEST(KvRequests, Ttl) {
  api::PutRequest put;
  put.key = "k";
  WriteOp op;
  put.ttl_mode = 4;
  EXPECT_THAT(Message(ToWriteOp(put, &op)), HasSubstr("ttl_mode is 4"));
  put.ttl_mode = 1;
  for (int64_t ms : {int64_t{0}, int64_t{-5}, INT64_MAX}) {
    put.key = "k";
    put.ttl_ms = ms;
    EXPECT_THAT(Message(ToWriteOp(put, &op)), HasSubstr("ttl_ms is")) << ms;
  }
  put.ttl_mode = 0;
  put.ttl_ms = 5;
  put.key = "k";
  EXPECT_THAT(Message(ToWriteOp(put, &op)), HasSubstr("ttl_ms is 5, but it applies only to ttl_mode TTL_SET (1)"));
  put.ttl_mode = 1;
  put.key = "k";
  EXPECT_FALSE(ToWriteOp(put, &op));
  EXPECT_EQ(op.ttl_ms, 5);
  EXPECT_EQ(op.ttl_mode, TtlMode::kSet);
}

TEST(KvRequests, AbsoluteExpiry) {
  api::IncrementRequest increment;
  increment.key = "k";
  increment.ttl_mode = api::g_pando_constants.TTL_SET_ABSOLUTE;
  for (int64_t ms : {int64_t{0}, int64_t{-5}, INT64_MAX}) {
    WriteOp refused;
    increment.expires_at_ms = ms;
    EXPECT_THAT(Message(ToWriteOp(increment, &refused)), HasSubstr("expires_at_ms is")) << ms;
  }
  increment.expires_at_ms = 1;  // a time in the past is allowed
  WriteOp op;
  EXPECT_FALSE(ToWriteOp(increment, &op));
  EXPECT_EQ(op.ttl_mode, TtlMode::kSet);
  EXPECT_EQ(op.expires_at_ms, 1);
  EXPECT_EQ(op.ttl_ms, 0);
  increment.ttl_ms = 5;
  EXPECT_THAT(Message(ToWriteOp(increment, &op)), HasSubstr("ttl_ms is 5, but it applies only to"));
  increment.ttl_ms = 0;
  increment.ttl_mode = api::g_pando_constants.TTL_CLEAR;
  EXPECT_THAT(Message(ToWriteOp(increment, &op)), HasSubstr("expires_at_ms is 1, but it applies only to"));
}

TEST(KvRequests, Touches) {
  api::TouchRequest touch;
  touch.key = "k";
  WriteOp op;
  EXPECT_THAT(Message(ToWriteOp(touch, &op)), HasSubstr("a touch needs ttl_mode"));
  touch.ttl_mode = api::g_pando_constants.TTL_CLEAR;
  EXPECT_FALSE(ToWriteOp(touch, &op));
  EXPECT_EQ(op.op, RecordOp::kTouch);
  EXPECT_EQ(op.key, "k");
}

// Fields that the kind of an op does not use are refused, not ignored.
TEST(KvRequests, OpsCarryNothingInVain) {
  struct Case {
    int32_t kind;
    std::function<void(api::WriteOp*)> set;
    const char* message;
  };
  for (const Case& test : {Case{1, [](api::WriteOp* x) { x->delta = 1; }, "delta is 1, but it applies only to"},
                           Case{2, [](api::WriteOp* x) { x->value = "v"; }, "bytes in value is 1"},
                           Case{2, [](api::WriteOp* x) { x->ttl_mode = 2; }, "ttl_mode is 2, but it applies only to"},
                           Case{3, [](api::WriteOp* x) { x->return_previous = true; }, "return_previous is set"},
                           Case{4, [](api::WriteOp* x) { x->value = "v"; }, "bytes in value is 1"}}) {
    api::WriteOp request;
    request.kind = test.kind;
    request.key = "k";
    test.set(&request);
    WriteOp op;
    EXPECT_THAT(Message(ToWriteOp(request, &op)), HasSubstr(test.message)) << test.kind;
  }
}

TEST(KvRequests, Conditions) {
  api::RemoveRequest remove;
  remove.key = "k";
  remove.__isset.condition = true;
  remove.condition.__set_version(0);
  WriteOp op;
  EXPECT_THAT(Message(ToWriteOp(remove, &op)), HasSubstr("versions are positive"));
  remove.condition.__set_version(7);
  remove.condition.__set_exists(false);
  remove.key = "k";
  EXPECT_THAT(Message(ToWriteOp(remove, &op)), HasSubstr("must not exist"));
  remove.condition.__set_exists(true);
  remove.condition.__set_value("v");
  remove.key = "k";
  WriteOp good;
  EXPECT_FALSE(ToWriteOp(remove, &good));
  EXPECT_EQ(good.condition.version, 7u);
  EXPECT_EQ(good.condition.value, "v");
  EXPECT_EQ(good.condition.exists, true);
}

TEST(KvRequests, Batches) {
  api::WriteBatchRequest batch;
  BatchOfWrites writes;
  EXPECT_FALSE(ToWriteBatch(batch, &writes));
  batch.ops.resize(kMaxBatchOps + 1);
  EXPECT_THAT(Message(ToWriteBatch(batch, &writes)), HasSubstr("1025 ops; the limit is 1024"));
  batch.conditions.resize(1);
  EXPECT_THAT(Message(ToWriteBatch(batch, &writes)), HasSubstr("1026 ops and conditions; the limit is 1024"));
  batch.conditions.clear();
  batch.ops.resize(3);
  for (auto& op : batch.ops) op.kind = 1, op.key = "k", op.value.assign(1u << 20, 'v');
  EXPECT_THAT(Message(ToWriteBatch(batch, &writes)),
              HasSubstr("3145731 bytes of keys and values; the limit is 2097152"));
  for (auto& op : batch.ops) op.value.clear();
  batch.ops[2].kind = 9;
  EXPECT_THAT(Message(ToWriteBatch(batch, &writes)), HasSubstr("op 2 of the batch: kind is 9"));
  batch.ops[2].kind = 3;
  batch.ops[2].delta = -4;
  for (auto& op : batch.ops) op.key = "k";
  batch.all_or_nothing = true;
  BatchOfWrites good;
  EXPECT_FALSE(ToWriteBatch(batch, &good));
  EXPECT_EQ(good.ops[2].op, RecordOp::kIncrement);
  EXPECT_EQ(good.ops[2].delta, -4);
  EXPECT_EQ(good.checks, 0u);
  EXPECT_TRUE(good.options.all_or_nothing);
}

TEST(KvRequests, ConditionsOfABatch) {
  auto batch_of = [](const std::vector<std::string>& conditions, const std::vector<std::string>& ops) {
    api::WriteBatchRequest batch;
    for (const std::string& key : conditions) {
      api::KeyCondition& c = batch.conditions.emplace_back();
      c.key = key;
      c.condition.__set_exists(true);
    }
    for (const std::string& key : ops) {
      api::WriteOp& op = batch.ops.emplace_back();
      op.kind = 1;
      op.key = key;
    }
    return batch;
  };
  BatchOfWrites writes;
  api::WriteBatchRequest batch = batch_of({"{t}a", "{t}b"}, {"{t}c", "x{t}"});
  EXPECT_FALSE(ToWriteBatch(batch, &writes));
  EXPECT_EQ(writes.checks, 2u);
  EXPECT_FALSE(writes.options.all_or_nothing);
  ASSERT_EQ(writes.ops.size(), 4u);
  EXPECT_EQ(writes.ops[1].op, RecordOp::kCheck);
  EXPECT_EQ(writes.ops[1].key, "{t}b");
  EXPECT_EQ(writes.ops[2].op, RecordOp::kPut);
  // A key without the common tag is refused, whichever partition it is in.
  for (auto [conditions, ops, culprit] :
       {std::tuple<std::vector<std::string>, std::vector<std::string>, const char*>{{"{t}a"}, {"{t}b", "b"}, "op 1"},
        {{"{t}a", "{u}a"}, {"{t}b"}, "condition 1"},
        {{"a"}, {"b"}, "op 0"}}) {
    batch = batch_of(conditions, ops);
    BatchOfWrites refused;
    EXPECT_THAT(Message(ToWriteBatch(batch, &refused)),
                HasSubstr(fmt::format("the key of {} does not match", culprit)));
  }
  batch = batch_of({"a"}, {"a"});
  BatchOfWrites same_key;
  EXPECT_FALSE(ToWriteBatch(batch, &same_key));
  batch = batch_of({"a"}, {});
  batch.conditions[0].condition = {};
  BatchOfWrites empty;
  EXPECT_THAT(Message(ToWriteBatch(batch, &empty)), HasSubstr("condition 0 of the batch: the condition is empty"));
}

TEST(KvRequests, Levels) {
  api::Context context;
  for (int32_t level = -1; level <= 8; ++level) {
    context.level = level;
    EXPECT_EQ(!CheckReadContext(context), level == 0 || (level >= 4 && level <= 6)) << level;
    EXPECT_EQ(!CheckWriteContext(context), level >= 0 && level <= 3) << level;
    EXPECT_EQ(IsPlainRead(context), level == 0 || level == 4) << level;
  }
  context = {};
  context.budget_ms = -1;
  EXPECT_TRUE(CheckReadContext(context));
  EXPECT_FALSE(IsPlainRead(context));
}

TEST(KvRequests, NamesOfWrites) {
  api::Context context;
  WriteOp once;
  once.sequence = 9;  // of a write before
  EXPECT_FALSE(ToOnce(context, /*remembers=*/true, &once));
  EXPECT_EQ(once.sequence, 0u) << "a write without a name";
  EXPECT_FALSE(CheckUnnamed(context));
  context.client_id = "me";
  context.sequence = 7;
  context.first_sent_ms = 20;
  EXPECT_FALSE(CheckWriteContext(context));
  EXPECT_THAT(Message(CheckUnnamed(context)), HasSubstr("no harm when it is repeated"));
  EXPECT_THAT(Message(ToOnce(context, /*remembers=*/false, &once)), HasSubstr("does not remember"));
  EXPECT_FALSE(ToOnce(context, /*remembers=*/true, &once));
  EXPECT_EQ(once.op, RecordOp::kOnce);
  EXPECT_EQ(once.key, "me");
  EXPECT_EQ(once.sequence, 7u);
  EXPECT_EQ(once.first_sent_ms, 20);
  struct Case {
    std::string client_id;
    int64_t sequence, first_sent_ms;
    const char* why;
  };
  for (const Case& bad : {Case{"", 7, 0, "client_id has 0 bytes"}, Case{"", 0, 7, "client_id has 0 bytes"},
                          Case{std::string(65, 'c'), 1, 1, "client_id has 65 bytes"}, Case{"me", 0, 1, "sequence is 0"},
                          Case{"me", -1, 1, "sequence is -1"}, Case{"me", 1, 0, "first_sent_ms is 0"},
                          Case{"me", 1, -1, "first_sent_ms is -1"}}) {
    context.client_id = bad.client_id;
    context.sequence = bad.sequence;
    context.first_sent_ms = bad.first_sent_ms;
    EXPECT_THAT(Message(ToOnce(context, /*remembers=*/true, &once)), HasSubstr(bad.why));
    EXPECT_EQ(once.sequence, 0u) << "a refused name is left behind";
    EXPECT_TRUE(CheckUnnamed(context)) << bad.why;
  }
}

TEST(KvRequests, AnErrorThatSaysNothingPromisesNothing) {
  EXPECT_EQ(api::KvError().applied, api::g_pando_constants.APPLIED_UNKNOWN);
  EXPECT_EQ(MakeError(ApiCode::kBadRequest, "no").applied, api::g_pando_constants.APPLIED_NO);
}

TEST(KvRequests, WhatASingleNodeCannotHonourIsRefused) {
  const auto& c = api::g_pando_constants;
  struct Case {
    const char* name;
    int32_t code;
    std::function<void(api::Context*)> set;
  };
  for (const Case& test :
       {Case{"namespace", c.BAD_REQUEST, [](api::Context* x) { x->name_space = "other"; }},
        Case{"principal", c.DENIED, [](api::Context* x) { x->principal = "root"; }},
        Case{"session", c.TOKEN_MISMATCH, [](api::Context* x) { x->session = "s"; }},
        Case{"hlc", c.BAD_REQUEST, [](api::Context* x) { x->hlc = 1; }},
        Case{"staleness without its level", c.BAD_REQUEST, [](api::Context* x) { x->max_staleness_ms = 1; }}}) {
    api::Context context;
    EXPECT_TRUE(IsPlainRead(context));
    test.set(&context);
    EXPECT_EQ(CodeOf(CheckReadContext(context)), test.code) << test.name;
    EXPECT_EQ(CodeOf(CheckWriteContext(context)), test.code) << test.name;
    EXPECT_FALSE(IsPlainRead(context)) << test.name;
    ResetForPlainRead(&context);
    EXPECT_TRUE(IsPlainRead(context)) << test.name << ": the next request inherits no field";
  }
  api::Context bounded;
  bounded.level = c.LEVEL_BOUNDED;
  bounded.max_staleness_ms = 5;
  EXPECT_FALSE(CheckReadContext(bounded)) << "the newest state satisfies every staleness bound";
  bounded.max_staleness_ms = -1;
  EXPECT_TRUE(CheckReadContext(bounded));
  api::Context retried;
  retried.sequence = 7;
  EXPECT_FALSE(CheckReadContext(retried)) << "reads ignore names";
}

TEST(KvRequests, Slices) {
  const auto refused = [](int32_t slices, int32_t slice, const std::string& since = "") {
    api::ScanRequest request;
    request.slices = slices;
    request.slice = slice;
    request.since = since;
    ScanRange range;
    const Refusal whole = ToScanRange(request, &range), part = ToScanRange(request, nullptr, &range);
    EXPECT_EQ(whole.has_value(), part.has_value());
    if (whole) {
      EXPECT_EQ(whole->code, api::g_pando_constants.BAD_REQUEST);
    }
    return whole.has_value();
  };
  EXPECT_FALSE(refused(0, 0));
  EXPECT_FALSE(refused(1, 0));
  EXPECT_FALSE(refused(65536, 65535));
  EXPECT_TRUE(refused(65537, 0));
  EXPECT_TRUE(refused(-1, 0));
  EXPECT_TRUE(refused(0, 1));
  EXPECT_TRUE(refused(8, 8));
  EXPECT_TRUE(refused(8, -1));
  EXPECT_FALSE(refused(0, 0, "token"));
  EXPECT_TRUE(refused(1, 0, "token"));
}

TEST(KvRequests, OnlyAnonymousClientsAreGreeted) {
  api::HelloRequest hello;
  hello.client_name = "test";
  hello.api_version = 99;
  EXPECT_FALSE(CheckHello(hello));
  hello.identity = "me";
  EXPECT_EQ(CodeOf(CheckHello(hello)), api::g_pando_constants.UNAUTHENTICATED);
  hello.identity = "";
  hello.credential = "secret";
  EXPECT_EQ(CodeOf(CheckHello(hello)), api::g_pando_constants.UNAUTHENTICATED);
  hello.credential = "";
  hello.api_version = -1;
  EXPECT_EQ(CodeOf(CheckHello(hello)), api::g_pando_constants.BAD_REQUEST);
}

TEST(KvRequests, Results) {
  WriteOp increment;
  increment.op = RecordOp::kIncrement;
  increment.delta = 5;
  OpResult from;
  from.version = 9;
  from.number = 12;
  api::WriteResult to;
  EXPECT_FALSE(ToWriteResult(increment, from, &to));
  EXPECT_TRUE(to.applied && to.__isset.number);
  EXPECT_EQ(to.number, 12);

  from.outcome = OpOutcome::kConditionFailed;
  from.current = {true, 3, 0, "now"};
  to = {};
  EXPECT_FALSE(ToWriteResult(increment, from, &to));
  EXPECT_FALSE(to.applied);
  EXPECT_TRUE(to.__isset.current);
  EXPECT_EQ(to.current.value, "now");

  from.outcome = OpOutcome::kNotANumber;
  from.current.value = "four";
  EXPECT_THAT(Message(ToWriteResult(increment, from, &to)), HasSubstr("4 bytes is not a decimal"));
  from.outcome = OpOutcome::kOverflow;
  EXPECT_THAT(Message(ToWriteResult(increment, from, &to)), HasSubstr("cannot increment by 5"));
}

}  // namespace
}  // namespace pando
