// kvbench's protocols: the templates equal what the generated code writes, Parse classifies
// answers, and ReplyCutter finds the answers in pieces of any size.
#include "tools/kvbench/protocol.h"

#include <gtest/gtest.h>
#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <algorithm>

#include "gen-cpp/Kv.h"
#include "src/base/codec.h"
#include "tools/kvbench/data.h"
#include "tools/kvbench/reply_cutter.h"

namespace pando::bench {
namespace {

namespace tp = apache::thrift::protocol;
using apache::thrift::transport::TMemoryBuffer;

constexpr RecordShape kShape{16, 100};

std::string ValueOf(std::string_view key) {
  std::string value(kShape.value_bytes, '\0');
  FillValue(key, 3, value.data(), value.size());
  return value;
}

std::string Frame(const std::string& body) {
  std::string frame(4, '\0');
  StoreLE<uint32_t>(frame.data(), __builtin_bswap32(static_cast<uint32_t>(body.size())));
  return frame + body;
}

template <typename GeneratedResult>
std::string ReplyFrame(const char* method, const GeneratedResult& result, tp::TMessageType type = tp::T_REPLY) {
  auto buffer = std::make_shared<TMemoryBuffer>();
  tp::TBinaryProtocol protocol(buffer);
  protocol.writeMessageBegin(method, type, 0);
  result.write(&protocol);
  return Frame(buffer->getBufferAsString());
}

template <typename Args>
void ReadCall(const std::string& frame, const std::string& method, Args* args) {
  ASSERT_EQ(__builtin_bswap32(LoadLE<uint32_t>(frame.data())), frame.size() - 4);
  auto buffer = std::make_shared<TMemoryBuffer>();
  buffer->write(reinterpret_cast<const uint8_t*>(frame.data() + 4), static_cast<uint32_t>(frame.size() - 4));
  tp::TBinaryProtocol protocol(buffer);
  std::string name;
  tp::TMessageType type;
  int32_t sequence;
  protocol.readMessageBegin(name, type, sequence);
  EXPECT_EQ(name, method);
  EXPECT_EQ(type, tp::T_CALL);
  args->read(&protocol);
  EXPECT_EQ(buffer->available_read(), 0u);
}

std::string GetOk(const std::string& value) {
  api::Kv_get_result result;
  result.success.record.found = true;
  result.success.record.value = value;
  result.success.record.version = 77;
  result.__isset.success = true;
  return ReplyFrame("get", result);
}

std::string ErrorReply(const std::string& message) {
  api::Kv_get_result result;
  result.error.code = 8;
  result.error.message = message;
  result.__isset.error = true;
  return ReplyFrame("get", result);
}

TEST(Thrift, RequestsDecodeWithTheGeneratedCode) {
  auto protocol = MakeThriftProtocol(kShape);
  const std::string key = MakeKey(9, 16);
  std::string out = "x";  // requests are appended to existing bytes
  protocol->AppendGet(key, &out);
  api::Kv_get_args get;
  ReadCall(out.substr(1), "get", &get);
  EXPECT_EQ(get.request.key, key);
  EXPECT_EQ(get.context, api::Context());

  out.clear();
  char* value = protocol->AppendPut(key, &out);
  FillValue(key, 3, value, kShape.value_bytes);
  api::Kv_put_args put;
  ReadCall(out, "put", &put);
  EXPECT_EQ(put.request.key, key);
  EXPECT_EQ(put.request.value, ValueOf(key));
  EXPECT_FALSE(put.request.__isset.condition);

  out.clear();
  protocol->AppendScan(key, 1234, &out);
  api::Kv_scan_args scan;
  ReadCall(out, "scan", &scan);
  EXPECT_EQ(scan.request.start_key, key);
  EXPECT_EQ(scan.request.limit_rows, 1234);
}

TEST(Thrift, AnswersAreToldApart) {
  auto protocol = MakeThriftProtocol(kShape);
  const std::string key = MakeKey(9, 16);
  std::string ok = GetOk(ValueOf(key));
  Reply reply = protocol->Parse(OpKind::kGet, ok);
  EXPECT_EQ(reply.outcome, Outcome::kOk);
  EXPECT_FALSE(reply.slow);
  EXPECT_EQ(reply.value, ValueOf(key));

  EXPECT_EQ(protocol->Parse(OpKind::kGet, GetOk("short")).outcome, Outcome::kError);

  api::Kv_get_result missing;
  missing.__isset.success = true;
  EXPECT_EQ(protocol->Parse(OpKind::kGet, ReplyFrame("get", missing)).outcome, Outcome::kNotFound);

  std::string refused = ErrorReply("queue full");
  EXPECT_EQ(protocol->Parse(OpKind::kGet, refused).outcome, Outcome::kError);
  EXPECT_NE(protocol->Describe(OpKind::kGet, refused).find("queue full"), std::string::npos);

  apache::thrift::TApplicationException unknown("no such method");
  std::string exception = ReplyFrame("get", unknown, tp::T_EXCEPTION);
  EXPECT_EQ(protocol->Parse(OpKind::kGet, exception).outcome, Outcome::kError);
  EXPECT_NE(protocol->Describe(OpKind::kGet, exception).find("no such method"), std::string::npos);

  api::Kv_put_result put;
  put.success.applied = true;
  put.__isset.success = true;
  EXPECT_EQ(protocol->Parse(OpKind::kPut, ReplyFrame("put", put)).outcome, Outcome::kOk);
  EXPECT_FALSE(protocol->Parse(OpKind::kPut, ReplyFrame("put", put)).slow);
  put.success.applied = false;
  EXPECT_EQ(protocol->Parse(OpKind::kPut, ReplyFrame("put", put)).outcome, Outcome::kError);
}

TEST(Thrift, ScansCountAndCheckRows) {
  auto protocol = MakeThriftProtocol(kShape);
  api::Kv_scan_result scan;
  scan.__isset.success = true;
  for (std::string key : {"000000000000000a", "000000000000000b", "000000000000000c"}) {
    scan.success.rows.emplace_back();
    scan.success.rows.back().key = key;
    scan.success.rows.back().value = ValueOf(key);
  }
  std::string frame = ReplyFrame("scan", scan);
  Reply reply = protocol->Parse(OpKind::kScan, frame);
  EXPECT_EQ(reply.outcome, Outcome::kOk);
  EXPECT_FALSE(reply.slow);
  EXPECT_EQ(reply.rows, 3u);
  EXPECT_TRUE(protocol->CheckScan(frame, "000000000000000a").ok());
  EXPECT_FALSE(protocol->CheckScan(frame, "000000000000000b").ok()) << "a row before the start";
  std::swap(scan.success.rows[0], scan.success.rows[1]);
  EXPECT_FALSE(protocol->CheckScan(ReplyFrame("scan", scan), "000000000000000a").ok()) << "out of order";
  std::swap(scan.success.rows[0], scan.success.rows[1]);
  scan.success.rows[2].value[50] ^= 1;
  EXPECT_FALSE(protocol->CheckScan(ReplyFrame("scan", scan), "000000000000000a").ok()) << "a damaged value";
}

TEST(Thrift, CutAndDamagedAnswersAreErrorsAndNeverReadOutside) {
  auto protocol = MakeThriftProtocol(kShape);
  const std::string good = GetOk(ValueOf(MakeKey(1, 16)));
  constexpr size_t kMessageBytes = 4 + 4 + 3 + 4;  // version and type, name, sequence id
  for (size_t length = 5; length < good.size(); ++length) {
    // Exact size, for sanitizers.
    std::vector<char> cut(good.begin(), good.begin() + static_cast<long>(length));
    for (OpKind kind : {OpKind::kGet, OpKind::kPut, OpKind::kScan}) {
      std::string_view frame(cut.data(), cut.size());
      EXPECT_EQ(protocol->Parse(kind, frame).outcome, Outcome::kError) << "cut at " << length;
      EXPECT_FALSE(protocol->Describe(kind, frame).empty());
    }
  }
  for (size_t at = 4; at < 4 + kMessageBytes; ++at) {
    std::string frame = good;
    frame[at] ^= 0x40;
    EXPECT_TRUE(protocol->Parse(OpKind::kGet, frame).slow) << "byte " << at;
  }
}

TEST(Resp, RequestsAndAnswers) {
  auto protocol = MakeRespProtocol(kShape);
  const std::string key = MakeKey(9, 16), value = ValueOf(key);
  std::string out;
  protocol->AppendGet(key, &out);
  EXPECT_EQ(out, "*2\r\n$3\r\nGET\r\n$16\r\n" + key + "\r\n");
  out.clear();
  char* at = protocol->AppendPut(key, &out);
  std::copy(value.begin(), value.end(), at);
  EXPECT_EQ(out, "*3\r\n$3\r\nSET\r\n$16\r\n" + key + "\r\n$100\r\n" + value + "\r\n");

  std::string ok = "$100\r\n" + value + "\r\n";
  EXPECT_EQ(protocol->ReplyBytes(ok + "more"), ok.size());
  EXPECT_EQ(protocol->Parse(OpKind::kGet, ok).outcome, Outcome::kOk);
  EXPECT_EQ(protocol->Parse(OpKind::kGet, ok).value, value);
  EXPECT_EQ(protocol->Parse(OpKind::kGet, "$-1\r\n").outcome, Outcome::kNotFound);
  EXPECT_EQ(protocol->Parse(OpKind::kGet, "$3\r\nabc\r\n").outcome, Outcome::kError);
  EXPECT_EQ(protocol->Parse(OpKind::kPut, "+OK\r\n").outcome, Outcome::kOk);
  EXPECT_EQ(protocol->Parse(OpKind::kPut, "-MISCONF no\r\n").outcome, Outcome::kError);
  EXPECT_EQ(protocol->Describe(OpKind::kPut, "-MISCONF no\r\n"), "the server answered \"-MISCONF no\"");
  EXPECT_EQ(protocol->ReplyBytes("$12"), 0u);
  EXPECT_EQ(protocol->ReplyBytes("$12x\r\n"), Protocol::kGarbage);
  EXPECT_EQ(protocol->ReplyBytes("HTTP/1.1 400\r\n"), Protocol::kGarbage);
  EXPECT_EQ(protocol->ReplyBytes(std::string(10'000, '+')), Protocol::kGarbage);
}

// Feeds the concatenated `replies` in random pieces and expects the same replies back.
void ExpectCut(const Protocol& protocol, const std::vector<std::string>& replies, uint64_t seed) {
  SCOPED_TRACE("replay: unit_kvbench --gtest_filter=Cutter.* with seed " + std::to_string(seed));
  std::string stream;
  for (const std::string& r : replies) stream += r;
  Random random(seed);
  ReplyCutter cutter(protocol);
  std::vector<std::string> cut;
  for (size_t at = 0; at < stream.size();) {
    size_t most = random.Below(4) == 0 ? stream.size() : 1 + random.Below(200);
    size_t n = std::min(stream.size() - at, 1 + random.Below(most));
    // A heap copy of exactly this piece, so that a sanitizer reports every read past its end.
    std::vector<char> piece(stream.begin() + static_cast<long>(at), stream.begin() + static_cast<long>(at + n));
    Status status = cutter.Feed(piece, [&](std::string_view frame) { cut.emplace_back(frame); });
    ASSERT_TRUE(status.ok()) << status.ToString();
    at += n;
  }
  EXPECT_EQ(cut, replies);
  EXPECT_EQ(cutter.partial_bytes(), 0u);
}

TEST(Cutter, FindsThriftAnswersInAnyPieces) {
  auto protocol = MakeThriftProtocol(kShape);
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    std::vector<std::string> replies;
    for (uint64_t i = 0; i < 40; ++i) {
      switch (random.Below(3)) {
        case 0: replies.push_back(GetOk(ValueOf(MakeKey(i, 16)))); break;
        case 1: replies.push_back(ErrorReply(std::string(random.Below(30), 'e'))); break;
        default: replies.push_back(Frame(std::string(1 + random.Below(3), 'b')));
      }
    }
    ExpectCut(*protocol, replies, seed);
  }
}

TEST(Cutter, FindsRespAnswersInAnyPieces) {
  auto protocol = MakeRespProtocol(kShape);
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    std::vector<std::string> replies;
    for (uint64_t i = 0; i < 40; ++i) {
      switch (random.Below(5)) {
        case 0: replies.push_back("$100\r\n" + ValueOf(MakeKey(i, 16)) + "\r\n"); break;
        case 1: replies.emplace_back("+OK\r\n"); break;
        case 2: replies.emplace_back("$-1\r\n"); break;
        case 3: replies.push_back("-ERR " + std::string(random.Below(60), 'e') + "\r\n"); break;
        default: {
          std::string body(random.Below(30), '\n');
          replies.push_back("$" + std::to_string(body.size()) + "\r\n" + body + "\r\n");
        }
      }
    }
    ExpectCut(*protocol, replies, seed);
  }
}

TEST(Cutter, RefusesGarbageAndHugeLengths) {
  auto thrift = MakeThriftProtocol(kShape);
  for (std::string bad : {std::string("HTTP/1.1 400 Bad"), std::string(4, '\0')}) {
    ReplyCutter cutter(*thrift);
    EXPECT_FALSE(cutter.Feed(bad, [](std::string_view) { FAIL(); }).ok());
    ReplyCutter slow(*thrift);
    bool refused = false;
    for (char c : bad) refused = refused || !slow.Feed(std::span(&c, 1), [](std::string_view) { FAIL(); }).ok();
    EXPECT_TRUE(refused);
  }
  ReplyCutter small(*thrift, 100);
  EXPECT_FALSE(small.Feed(Frame(std::string(200, 'x')), [](std::string_view) { FAIL(); }).ok());
}

}  // namespace
}  // namespace pando::bench
