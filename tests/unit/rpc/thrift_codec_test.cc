// The codec against Thrift's own protocols and against malicious bytes.
#include "src/rpc/thrift_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thrift/transport/TBufferTransports.h>

#include "gen-cpp/Kv.h"
#include "tests/support/rpc_harness.h"

namespace pando {
namespace {

using apache::thrift::protocol::TBinaryProtocol;
using apache::thrift::protocol::TCompactProtocol;
using apache::thrift::transport::TMemoryBuffer;
using testing::HasSubstr;

api::Kv_scan_args SampleArgs() {
  api::Kv_scan_args args;
  args.context.budget_ms = 1234;
  args.context.traceparent = "00-aa-bb-01";
  args.request.start_key = std::string("a\0b", 3);
  args.request.prefix = "p";
  args.request.reverse = true;
  args.request.limit_rows = -7;
  return args;
}

// Returns what a standard Thrift client sends, without the length of the frame.
std::string StockMessage(WireProtocol kind, const std::string& method, int32_t seqid, const api::Kv_scan_args& args) {
  auto buffer = std::make_shared<TMemoryBuffer>();
  std::shared_ptr<apache::thrift::protocol::TProtocol> protocol;
  if (kind == WireProtocol::kCompact) {
    protocol = std::make_shared<TCompactProtocol>(buffer);
  } else {
    bool strict = kind == WireProtocol::kBinary;
    protocol = std::make_shared<TBinaryProtocol>(buffer, 0, 0, strict, strict);
  }
  protocol->writeMessageBegin(method, apache::thrift::protocol::T_CALL, seqid);
  args.write(protocol.get());
  protocol->writeMessageEnd();
  return buffer->getBufferAsString();
}

class EveryProtocol : public testing::TestWithParam<WireProtocol> {};
INSTANTIATE_TEST_SUITE_P(Wire, EveryProtocol,
                         testing::Values(WireProtocol::kBinary, WireProtocol::kOldBinary, WireProtocol::kCompact));

TEST_P(EveryProtocol, ReadsWhatStockClientsSend) {
  for (int32_t seqid : {0, 1, -1, INT32_MAX}) {
    std::string message = StockMessage(GetParam(), "scan", seqid, SampleArgs());
    std::string_view body = message;
    MessageHeader header;
    ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok());
    EXPECT_EQ(header.protocol, GetParam());
    EXPECT_EQ(header.method, "scan");
    EXPECT_EQ(header.seqid, seqid);
    EXPECT_EQ(header.type, apache::thrift::protocol::T_CALL);
    api::Kv_scan_args args;
    ThriftCodec codec;
    ASSERT_TRUE(codec.Read(header.protocol, body, &args).ok());
    EXPECT_EQ(args, SampleArgs());
  }
}

TEST_P(EveryProtocol, WritesWhatStockClientsRead) {
  std::string frame = EncodeCall("scan", 77, SampleArgs(), GetParam());
  EXPECT_EQ(frame.substr(kFrameHeaderBytes), StockMessage(GetParam(), "scan", 77, SampleArgs()));
  EXPECT_EQ(__builtin_bswap32(LoadLE<uint32_t>(frame.data())), frame.size() - kFrameHeaderBytes);
}

TEST_P(EveryProtocol, EveryCutIsAnErrorAndTheCodecGoesOn) {
  std::string message = StockMessage(GetParam(), "scan", 5, SampleArgs());
  ThriftCodec codec;
  for (size_t cut = 0; cut < message.size(); ++cut) {
    std::string part = message.substr(0, cut);
    std::string_view body = part;
    MessageHeader header;
    api::Kv_scan_args args;
    if (!DecodeMessageHeader(&body, &header).ok()) continue;
    ASSERT_FALSE(codec.Read(header.protocol, body, &args).ok()) << cut;
  }
  std::string_view body = message;
  MessageHeader header;
  api::Kv_scan_args args;
  ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok());
  ASSERT_TRUE(codec.Read(header.protocol, body, &args).ok());
  EXPECT_EQ(args, SampleArgs());
}

TEST(ThriftCodec, RefusesWhatIsNotThrift) {
  for (const std::string& bytes :
       {std::string(), std::string("GET / HTTP/1.1"), std::string("\x81\x01", 2),
        std::string("\x80\x02\x00\x01\x00\x00\x00\x01g\x00\x00\x00\x00", 13),
        std::string("\x80\x01\x00\x09\x00\x00\x00\x01g\x00\x00\x00\x00", 13),  // message type 9
        std::string("\x00\x00\x00\x01g\x00\x00\x00\x00\x01", 10),              // message type 0
        std::string("\x82\xa1\x00\x01g", 5),                                   // message type 5
        std::string("\x82\x22\x00\x01g", 5),                                   // compact version 2
        std::string("\x80\x01\x00\x01\x00\x00\x10\x00", 8),                    // a name of 4096 bytes
        std::string("\x80\x01\x00\x01\x7f\xff\xff\xffxxxx", 12),               // a name of 2 GiB
        std::string("\x80\x01\x00\x01\x00\x00\x00\x03ge", 10)}) {
    std::string_view body = bytes;
    MessageHeader header;
    EXPECT_EQ(DecodeMessageHeader(&body, &header).code(), Code::kInvalidArgument) << testing::PrintToString(bytes);
  }
}

TEST(ThriftCodec, AClaimedLengthAllocatesNothing) {
  ThriftCodec codec;
  // request { key = string of 1 GiB } in ten bytes.
  std::string body(
      "\x0c\x00\x02\x0b\x00\x01\x40\x00\x00\x00"
      "abc",
      13);
  api::Kv_get_args get;
  Status status = codec.Read(WireProtocol::kBinary, body, &get);
  EXPECT_THAT(status.message(), HasSubstr("longer than the frame"));
  EXPECT_LT(get.request.key.capacity(), 64u);

  // request { keys = list of 100 million strings }
  std::string list("\x0c\x00\x02\x0f\x00\x01\x0b\x05\xf5\xe1\x00", 11);
  api::Kv_multiGet_args many;
  EXPECT_THAT(codec.Read(WireProtocol::kBinary, list, &many).message(), HasSubstr("more than 16384 entries"));
  EXPECT_EQ(many.request.keys.capacity(), 0u);

  // request { ops = list of 16384 structs } in eleven bytes. This is within the limit on entries,
  // and each entry may be a single byte.
  std::string structs("\x0c\x00\x02\x0f\x00\x01\x0c\x00\x00\x40\x00", 11);
  api::Kv_writeBatch_args batch;
  EXPECT_FALSE(codec.Read(WireProtocol::kBinary, structs, &batch).ok());
}

// Decoding many entries would take long, so a request with more than any may have is refused before
// its lists are made, also when the same list comes again and again.
TEST(ThriftCodec, TooManyEntriesInARequestAreNotDecoded) {
  for (WireProtocol protocol : {WireProtocol::kBinary, WireProtocol::kCompact}) {
    for (size_t conditions : {0u, 1024u}) {
      ThriftCodec codec;
      api::Kv_writeBatch_args args, decoded;
      args.request.__isset.conditions = conditions > 0;
      args.request.conditions.resize(conditions);
      args.request.ops.resize(2049 - conditions);
      std::string frame;
      codec.Write(MessageHeader{protocol, apache::thrift::protocol::T_CALL, 1, "writeBatch"}, args, &frame);
      std::string_view body = std::string_view(frame).substr(kFrameHeaderBytes);
      MessageHeader header;
      ASSERT_TRUE(DecodeMessageHeader(&body, &header).ok());
      MemoryBudget budget(64 << 20);
      BudgetAccount account(&budget);
      MemoryGrant memory(&account);
      Status status = codec.Read(protocol, body, &decoded, &memory);
      EXPECT_EQ(status.code(), Code::kInvalidArgument);
      EXPECT_THAT(status.message(), HasSubstr("more than 2048 entries"));
      EXPECT_TRUE(decoded.request.ops.empty() || decoded.request.conditions.empty());
      // Replies are not limited: 2049 rows of a scan are usual.
      EXPECT_TRUE(codec.Read(protocol, body, &decoded).ok());
      EXPECT_EQ(decoded.request.ops.size() + decoded.request.conditions.size(), 2049u);
    }
  }
}

TEST(ThriftCodec, NestingIsBounded) {
  // A struct as field 99 that nests endlessly. Skipping it must not recurse without limit.
  std::string body;
  for (int i = 0; i < 100'000; ++i) body += std::string("\x0c\x00\x63", 3);
  ThriftCodec codec;
  api::Kv_get_args args;
  EXPECT_THAT(codec.Read(WireProtocol::kBinary, body, &args).message(), HasSubstr("nested deeper"));
}

TEST(ThriftCodec, UnknownFieldsAreSkipped) {
  auto buffer = std::make_shared<TMemoryBuffer>();
  TBinaryProtocol protocol(buffer);
  protocol.writeFieldBegin("later", apache::thrift::protocol::T_LIST, 9);
  protocol.writeListBegin(apache::thrift::protocol::T_I64, 2);
  protocol.writeI64(1);
  protocol.writeI64(2);
  protocol.writeListEnd();
  api::Kv_get_args args;
  args.request.key = "k";
  args.write(&protocol);
  api::Kv_get_args read;
  ThriftCodec codec;
  ASSERT_TRUE(codec.Read(WireProtocol::kBinary, buffer->getBufferAsString(), &read).ok());
  EXPECT_EQ(read.request.key, "k");
}

// What a request has in fields that this version does not know takes time to skip, and is limited as what it knows.
TEST(ThriftCodec, UnknownFieldsOfARequestAreLimited) {
  MemoryBudget budget(64 << 20);
  BudgetAccount account(&budget);
  ThriftCodec codec;
  const auto read = [&](const std::string& body) {
    MemoryGrant memory(&account);
    api::Kv_get_args args;
    return codec.Read(WireProtocol::kBinary, body + '\0', &args, &memory);
  };
  const auto times = [](size_t n, const std::string& bytes) {
    std::string all;
    for (size_t i = 0; i < n; ++i) all += bytes;
    return all;
  };
  const std::string empty_structs = std::string("\x00\x00\x08\x00", 4) + std::string(2048, '\0');
  for (const std::string& header : {std::string("\x0f\x00\x63\x0c", 4), std::string("\x0e\x00\x63\x0c", 4)}) {
    EXPECT_TRUE(read(header + empty_structs).ok()) << "a list, and a set";
    const Status status = read(times(2, header + empty_structs));
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("more than 2048 entries"));
  }
  const std::string map = std::string("\x0d\x00\x63\x03\x03\x00\x00\x08\x00", 9) + std::string(2 * 2048, '\0');
  EXPECT_TRUE(read(map).ok());
  EXPECT_EQ(read(times(2, map)).code(), Code::kInvalidArgument);
  // Within a struct that is not known either, and numbers.
  const std::string flag("\x02\x00\x63\x01", 4);
  const std::string numbers = std::string("\x0f\x00\x63\x08\x00\x00\x40\x00", 8) + std::string(4 * 16384, '\0');
  const std::string within("\x0c\x00\x63", 3);
  EXPECT_TRUE(read(times(100'000, flag)).ok());
  EXPECT_TRUE(read(times(7, numbers)).ok());
  for (const std::string& body : {times(140'000, flag), within + times(140'000, flag) + '\0', times(8, numbers)}) {
    const Status status = read(body);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("more than 131072 fields"));
  }
  EXPECT_TRUE(read(map).ok()) << "the codec goes on";
}

TEST_P(EveryProtocol, ExceptionsKeepMethodAndSequence) {
  ThriftCodec codec;
  std::string out;
  codec.WriteException(MessageHeader{GetParam(), apache::thrift::protocol::T_CALL, 9, "nope"},
                       TApplicationException::UNKNOWN_METHOD, "no such thing", &out);
  auto reply = DecodeReply<api::Kv_get_result>(std::string_view(out).substr(kFrameHeaderBytes));
  EXPECT_EQ(reply.header.seqid, 9);
  EXPECT_EQ(reply.exception_type, TApplicationException::UNKNOWN_METHOD);
  EXPECT_EQ(reply.exception, "no such thing");
}

}  // namespace
}  // namespace pando
