// Requests as clients of the first published interface send them (tests/fixtures/wire). Today's
// server must read them with the same meaning as then. The file also tests the bytes of a reply
// that was written by hand.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Kv.h"
#include "src/rpc/thrift_codec.h"
#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

// Maps each method to its frames, one for each protocol.
std::map<std::string, std::vector<std::string>> ReadFixtures() {
  std::map<std::string, std::vector<std::string>> frames;
  std::ifstream in(PANDO_WIRE_FIXTURES "/requests_v2.txt");
  EXPECT_TRUE(in) << PANDO_WIRE_FIXTURES;
  std::string method, protocol, hex;
  while (in >> method >> protocol >> hex) {
    std::string bytes;
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
      bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    frames[method].push_back(bytes);
  }
  return frames;
}

template <typename Args>
void ExpectRead(const std::string& method, const Args& expected) {
  static const auto fixtures = ReadFixtures();
  auto found = fixtures.find(method);
  ASSERT_TRUE(found != fixtures.end()) << method;
  ASSERT_EQ(found->second.size(), 2u) << method;
  for (const std::string& frame : found->second) {
    std::string_view body = std::string_view(frame).substr(kFrameHeaderBytes);
    MessageHeader header;
    ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok()) << method;
    EXPECT_EQ(header.method, method);
    Args args;
    ThriftCodec codec;
    Status status = codec.Read(header.protocol, body, &args);
    ASSERT_TRUE(status.ok()) << method << ": " << status.ToString();
    EXPECT_TRUE(args == expected) << method << ", protocol " << static_cast<int>(header.protocol);
  }
}

template <typename Args>
Args WithContext() {
  Args args;
  args.context.budget_ms = 1234;
  args.context.traceparent = "00-aa-bb-01";
  return args;
}

template <typename Request>
void SetRange(Request* request) {
  request->start_key = "a";
  request->end_key = "z";
  request->prefix = "p";
}

api::Condition OldCondition() {
  api::Condition condition;
  condition.__set_version(7);
  condition.__set_value("old");
  condition.__set_exists(true);
  return condition;
}

TEST(WireFixtures, SingleReadsAndWrites) {
  auto hello = WithContext<api::Kv_hello_args>();
  hello.request.client_name = "old client";
  hello.request.api_version = 2;
  hello.request.features = {"out_of_order_replies"};
  ExpectRead("hello", hello);
  auto get = WithContext<api::Kv_get_args>();
  get.request.key = std::string("key\0\xff", 5);
  ExpectRead("get", get);
  auto put = WithContext<api::Kv_put_args>();
  put.request.key = "key";
  put.request.value = "value";
  put.request.__set_condition(OldCondition());
  put.request.ttl_mode = 3;
  put.request.expires_at_ms = 99000;
  put.request.return_previous = true;
  ExpectRead("put", put);
  auto remove = WithContext<api::Kv_remove_args>();
  remove.request.key = "key";
  remove.request.__set_condition(OldCondition());
  remove.request.return_previous = true;
  ExpectRead("remove", remove);
  auto increment = WithContext<api::Kv_increment_args>();
  increment.request.key = "n";
  increment.request.delta = -5;
  increment.request.ttl_mode = 1;
  increment.request.ttl_ms = 60000;
  ExpectRead("increment", increment);
  auto touch = WithContext<api::Kv_touch_args>();
  touch.request.key = "key";
  touch.request.ttl_mode = 2;
  ExpectRead("touch", touch);
}

TEST(WireFixtures, Batches) {
  auto many = WithContext<api::Kv_multiGet_args>();
  many.request.keys = {"a", "b"};
  many.request.snapshot = "snapshot";
  ExpectRead("multiGet", many);
  auto batch = WithContext<api::Kv_writeBatch_args>();
  batch.request.ops.resize(3);
  api::WriteOp& put = batch.request.ops[0];
  put.kind = 1;
  put.key = "{t}/a";
  put.value = "value";
  put.__set_condition(OldCondition());
  put.ttl_mode = 1;
  put.ttl_ms = 5000;
  put.return_previous = true;
  api::WriteOp& absolute = batch.request.ops[1];
  absolute.kind = 1;
  absolute.key = "{t}/b";
  absolute.ttl_mode = 3;
  absolute.expires_at_ms = 99000;
  api::WriteOp& increment = batch.request.ops[2];
  increment.kind = 3;
  increment.key = "{t}/n";
  increment.delta = -5;
  batch.request.all_or_nothing = true;
  batch.request.conditions.resize(1);
  batch.request.conditions[0].key = "{t}/c";
  batch.request.conditions[0].condition.__set_exists(false);
  ExpectRead("writeBatch", batch);
}

TEST(WireFixtures, Ranges) {
  auto scan = WithContext<api::Kv_scan_args>();
  SetRange(&scan.request);
  scan.request.reverse = scan.request.keys_only = scan.request.sizes_only = true;
  scan.request.limit_rows = 10;
  scan.request.limit_bytes = 1000;
  scan.request.cursor = "cursor";
  scan.request.snapshot = "snapshot";
  scan.request.since = "since";
  ExpectRead("scan", scan);
  auto count = WithContext<api::Kv_count_args>();
  SetRange(&count.request);
  count.request.snapshot = "snapshot";
  ExpectRead("count", count);
  auto aggregate = WithContext<api::Kv_aggregate_args>();
  SetRange(&aggregate.request);
  aggregate.request.snapshot = "snapshot";
  ExpectRead("aggregate", aggregate);
  auto split = WithContext<api::Kv_splitRange_args>();
  SetRange(&split.request);
  split.request.parts = 4;
  split.request.snapshot = "snapshot";
  ExpectRead("splitRange", split);
  auto removes = WithContext<api::Kv_deleteRange_args>();
  SetRange(&removes.request);
  removes.request.limit_rows = 10;
  removes.request.cursor = "cursor";
  removes.request.max_version = int64_t{1} << 60;
  ExpectRead("deleteRange", removes);
  auto watch = WithContext<api::Kv_watch_args>();
  watch.request.prefix = "p";
  watch.request.position = "position";
  watch.request.wait_ms = 30000;
  watch.request.limit_changes = 10;
  ExpectRead("watch", watch);
}

TEST(WireFixtures, SnapshotsAndAdmin) {
  auto open = WithContext<api::Kv_openSnapshot_args>();
  open.request.ttl_ms = 60000;
  ExpectRead("openSnapshot", open);
  auto renew = WithContext<api::Kv_renewSnapshot_args>();
  renew.request.snapshot = "snapshot";
  renew.request.ttl_ms = 60000;
  ExpectRead("renewSnapshot", renew);
  auto release = WithContext<api::Kv_releaseSnapshot_args>();
  release.request.snapshot = "snapshot";
  ExpectRead("releaseSnapshot", release);
  ExpectRead("status", WithContext<api::Admin_status_args>());
  ExpectRead("checkpoint", WithContext<api::Admin_checkpoint_args>());
}

// The reply to a get in the strict binary protocol, byte by byte as the Thrift specification
// defines it.
TEST(WireFixtures, GetReply) {
  api::Kv_get_result result;
  result.__isset.success = true;
  result.success.record.found = true;
  result.success.record.value = "red";
  result.success.record.version = 0x0102030405060708;
  result.success.record.expires_at_ms = 5;
  ThriftCodec codec;
  std::string frame;
  codec.Write(MessageHeader{WireProtocol::kBinary, apache::thrift::protocol::T_REPLY, 7, "get"}, result, &frame);
  EXPECT_EQ(Hex(frame),
            "0000003c"  // the frame's length
            "80010002"
            "00000003"
            "676574"
            "00000007"  // reply, "get", sequence id
            "0c0000"
            "0c0001"  // field 0: GetReply; its field 1: Record
            "020001"
            "01"  // found
            "0b0002"
            "00000003"
            "726564"  // value
            "0a0003"
            "0102030405060708"  // version
            "0a0004"
            "0000000000000005"  // expires_at_ms
            "00"
            "00"
            "00");
}

}  // namespace
}  // namespace pando
