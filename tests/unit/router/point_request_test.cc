// What a router understands of requests without decoding them, and what it leaves to the decoder.
#include "src/router/point_request.h"

#include <gtest/gtest.h>

#include "gen-cpp/Kv.h"
#include "src/rpc/thrift_codec.h"

namespace pando {
namespace {

using std::string_literals::operator""s;

std::string Usual() {
  api::Kv_put_args args;
  args.context.budget_ms = 5;
  args.context.client_id = "lane";
  args.request.key = "the key";
  args.request.value = "v\0w"s;
  args.request.__isset.condition = true;
  args.request.condition.__set_exists(false);
  std::string body;
  ThriftCodec codec;
  codec.WriteStruct(args, &body);
  return body;
}

TEST(PointRequest, SeesContextAndKeyOfGeneratedRequests) {
  const std::string body = Usual();
  const auto view = ViewPointRequest(body);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->key, "the key");
  api::Context context;
  ThriftCodec codec;
  ASSERT_TRUE(codec.Read(WireProtocol::kBinary, view->context, &context).ok());
  EXPECT_EQ(context.budget_ms, 5);
  EXPECT_EQ(context.client_id, "lane");
  EXPECT_EQ(std::string(kContextFieldHead) + std::string(view->context) + std::string(view->rest), body);
}

TEST(PointRequest, AContextMayBeLeftOut) {
  const std::string whole = Usual();
  const auto view = ViewPointRequest(whole);
  const std::string body(view->rest);
  const auto bare = ViewPointRequest(body);
  ASSERT_TRUE(bare.has_value());
  EXPECT_TRUE(bare->context.empty());
  EXPECT_EQ(bare->key, "the key");
}

// A second context or a second key would decide at the node and not here.
TEST(PointRequest, NothingIsThereTwice) {
  const std::string body = Usual();
  const auto view = ViewPointRequest(body);
  std::string twice = body;
  twice.insert(twice.size() - 1, std::string(kContextFieldHead) + std::string(view->context));
  EXPECT_FALSE(ViewPointRequest(twice).has_value());
  const std::string two_keys = "\x0c\x00\x02\x0b\x00\x01\0\0\0\1a\x0b\x00\x01\0\0\0\1b\0\0"s;
  EXPECT_FALSE(ViewPointRequest(two_keys).has_value());
  const std::string one_key = "\x0c\x00\x02\x0b\x00\x01\0\0\0\1a\0\0"s;
  EXPECT_TRUE(ViewPointRequest(one_key).has_value());
  EXPECT_FALSE(ViewPointRequest(one_key + "x").has_value());
}

TEST(PointRequest, NoPartOfARequestIsTakenForAWholeOne) {
  const std::string body = Usual();
  for (size_t bytes = 0; bytes < body.size(); ++bytes) {
    EXPECT_FALSE(ViewPointRequest(std::string_view(body).substr(0, bytes)).has_value()) << bytes;
  }
}

TEST(PointRequest, NonsenseEnds) {
  // A list of 2^32 - 1 entries, structs in structs, unknown types.
  EXPECT_FALSE(ViewPointRequest("\x0c\x00\x01\x0f\x00\x09\x02\xff\xff\xff\xff"s).has_value());
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "\x0c\x00\x01"s;
  EXPECT_FALSE(ViewPointRequest(deep).has_value());
  EXPECT_FALSE(ViewPointRequest("\x0c\x00\x01\x63\x00\x01"s).has_value());
  const std::string map = "\x0c\x00\x01\x0d\x00\x09\x08\x0b\0\0\0\1\0\0\0\7\0\0\0\1z\0"s;
  EXPECT_TRUE(ViewPointRequest(map + "\x0c\x00\x02\x0b\x00\x01\0\0\0\1a\0\0"s).has_value());
}

TEST(PointRequest, TellsResultsFromErrors) {
  api::Kv_get_result result;
  ThriftCodec codec;
  std::string success, error;
  result.__isset.success = true;
  codec.WriteStruct(result, &success);
  result.__isset.success = false;
  result.__isset.error = true;
  codec.WriteStruct(result, &error);
  EXPECT_EQ(KindOfReply(success), ReplyKind::kSuccess);
  EXPECT_EQ(KindOfReply(error), ReplyKind::kError);
  EXPECT_EQ(KindOfReply(""), ReplyKind::kOther);
  EXPECT_EQ(KindOfReply("\0"s), ReplyKind::kOther);
}

}  // namespace
}  // namespace pando
