// What kvadmin reads of a reply to a scan, and that it refuses one that is malformed.
#include "tools/kvadmin/received_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thrift/TApplicationException.h>
#include <thrift/protocol/TProtocolException.h>

#include <random>

#include "gen-cpp/Kv.h"
#include "src/rpc/thrift_codec.h"
#include "tests/support/seeds.h"

namespace pando::admin {
namespace {

using apache::thrift::protocol::T_EXCEPTION;
using apache::thrift::protocol::T_REPLY;
using apache::thrift::protocol::TProtocolException;

constexpr uint32_t kMostRows = 100;

class ReceivedPageTest : public testing::Test {
 protected:
  ReceivedPageTest() {
    result_.__isset.success = true;
    for (int i = 0; i < 3; ++i) {
      api::Row& row = result_.success.rows.emplace_back();
      row.key = fmt::format("key-{}", i);
      row.value = std::string(static_cast<size_t>(20 * i), 'v');
      row.version = 1000 + i;
      row.expires_at_ms = i == 2 ? 77 : 0;
    }
    result_.success.cursor = "cursor";
    result_.success.context.map_version = 5;
    result_.success.__isset.context = true;
  }

  void Clear() {
    result_.success = api::ScanReply();
    result_.error = api::KvError();
    result_.__isset = {};
  }
  std::string Message(WireProtocol protocol = WireProtocol::kBinary, ThriftMessageType type = T_REPLY,
                      std::string_view method = "scan") const {
    MessageHeader header;
    header.protocol = protocol;
    header.type = type;
    header.method = method;
    std::string frame;
    ThriftCodec().Write(header, result_, &frame);
    return frame.substr(kFrameHeaderBytes);
  }
  // A reply with this body.
  static std::string Enclose(std::string_view body) {
    MessageHeader header;
    header.type = T_REPLY;
    header.method = "scan";
    std::string frame;
    ThriftCodec().WriteEncoded(header, body, "", &frame);
    return frame.substr(kFrameHeaderBytes);
  }
  static std::string Field(char type, char id, std::string_view value) {
    return std::string{type, '\0', id} + std::string(value);
  }
  static std::string Int(uint32_t number) {
    std::string bytes(4, '\0');
    StoreLE<uint32_t>(bytes.data(), __builtin_bswap32(number));
    return bytes;
  }
  static std::string Text(std::string_view text) { return Int(static_cast<uint32_t>(text.size())) + std::string(text); }
  static std::string Rows(std::initializer_list<std::string> rows, uint32_t count) {
    std::string list = "\x0c" + Int(count);
    for (const std::string& row : rows) list += row;
    return Field(15, 1, list);
  }
  // The reply of which `fields` are the fields.
  static std::string Reply(std::string_view fields) { return Enclose(Field(12, 0, std::string(fields) + '\0') + '\0'); }
  static std::string RowOf(std::string_view fields) { return std::string(fields) + '\0'; }

  // Reads a copy in memory of its own, so that a sanitizer sees what is read beyond its end.
  void Read(std::string_view message, uint32_t most_rows = kMostRows) {
    page_ = ReceivedPage();
    page_.frame.Reserve(message.size());
    page_.frame.Append(message);
    page_.rows.resize(2);
    page_.cursor = "of before";
    ReadScanReply(most_rows, &page_);
  }
  void Refuses(std::string_view message, const char* what, uint32_t most_rows = kMostRows) {
    EXPECT_THROW(Read(message, most_rows), TProtocolException) << what;
    EXPECT_TRUE(page_.rows.empty() && page_.cursor.empty()) << what;
  }

  api::Kv_scan_result result_;
  ReceivedPage page_;
};

TEST_F(ReceivedPageTest, RowsAreThoseOfGeneratedCode) {
  for (const WireProtocol protocol : {WireProtocol::kBinary, WireProtocol::kOldBinary}) {
    Read(Message(protocol));
    ASSERT_EQ(page_.rows.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(page_.rows[i].key, result_.success.rows[i].key);
      EXPECT_EQ(page_.rows[i].value, result_.success.rows[i].value);
      EXPECT_EQ(page_.rows[i].version, result_.success.rows[i].version);
      EXPECT_EQ(page_.rows[i].expires_at_ms, result_.success.rows[i].expires_at_ms);
    }
    EXPECT_EQ(page_.cursor, "cursor");
  }
  result_.success.rows.clear();
  result_.success.cursor.clear();
  Read(Message());
  EXPECT_TRUE(page_.rows.empty());
  EXPECT_EQ(page_.cursor, "");
  Read(Reply(""));
  EXPECT_TRUE(page_.rows.empty());
  // A newer server's fields, of any type, before and after the rows.
  Read(Reply(Field(11, 9, Text("newer")) + Rows({RowOf(Field(11, 1, Text("a")) + Field(8, 20, Int(7)))}, 1) +
             Field(13, 21, "\x0b\x08" + Int(1) + Text("name") + Int(3))));
  ASSERT_EQ(page_.rows.size(), 1u);
  EXPECT_EQ(page_.rows[0].key, "a");
}

TEST_F(ReceivedPageTest, ExceptionsOfTheServer) {
  Clear();
  result_.__isset.error = true;
  result_.error.message = "too much";
  try {
    Read(Message());
    FAIL() << "no exception";
  } catch (const api::KvError& e) {
    EXPECT_EQ(e.message, "too much");
  }
  MessageHeader header;
  header.method = "scan";
  std::string frame;
  ThriftCodec().WriteException(header, TApplicationException::UNKNOWN_METHOD, "no such method", &frame);
  try {
    Read(frame.substr(kFrameHeaderBytes));
    FAIL() << "no exception";
  } catch (const TApplicationException& e) {
    EXPECT_STREQ(e.what(), "no such method");
  }
  Clear();
  Refuses(Message(), "neither a result nor an error");
}

TEST_F(ReceivedPageTest, AReplyThatIsCutIsRefused) {
  const std::string whole = Message();
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) Refuses(whole.substr(0, bytes), "cut");
}

TEST_F(ReceivedPageTest, OtherMessagesAreRefused) {
  Refuses(Message(WireProtocol::kCompact), "another protocol");
  Refuses(Message(WireProtocol::kBinary, apache::thrift::protocol::T_CALL), "a call");
  Refuses(Message(WireProtocol::kBinary, T_REPLY, "scam"), "of another method");
  Refuses(Message(WireProtocol::kBinary, T_EXCEPTION).substr(0, 20), "half an exception");
  Refuses("HTTP/1.1 400 Bad Request\r\n\r\n", "another language");
}

TEST_F(ReceivedPageTest, LengthsBeyondTheEndAreRefused) {
  const std::string row = RowOf(Field(11, 1, Text("a")) + Field(11, 2, Text("b")));
  Read(Reply(Rows({row, row}, 2)));
  EXPECT_EQ(page_.rows.size(), 2u);
  for (const uint32_t length : {100u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    Refuses(Reply(Rows({RowOf(Field(11, 1, Int(length) + "a"))}, 1)), "the key");
    Refuses(Reply(Rows({RowOf(Field(11, 1, Text("a")) + Field(11, 2, Int(length) + "b"))}, 1)), "the value");
    Refuses(Reply(Rows({row, row}, length)), "the list");
    Refuses(Reply(Rows({row, row}, length)), "the list, if any number was asked for", 0xffffffffu);
    Refuses(Reply(Rows({row}, 1) + Field(11, 2, Int(length) + "cursor")), "the cursor");
    Refuses(Reply(Rows({RowOf(Field(15, 30, "\x0b" + Int(length)))}, 1)), "a list that is not known");
  }
  Refuses(Reply(Rows({row, row}, 3)), "more than there are");
  Refuses(Reply(Rows({row, row}, 2)), "more than were asked for", 1);
}

TEST_F(ReceivedPageTest, OtherTypesAreNoFieldsOrRefused) {
  Refuses(Reply(Field(15, 1, "\x0b" + Int(1) + Text("a"))), "a list of strings");
  Refuses(Reply(Rows({RowOf(Field(99, 1, Text("a")))}, 1)), "a type that is not known");
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += Field(12, 7, "");
  Refuses(Reply(Rows({RowOf(deep + std::string(100, '\0'))}, 1)), "structs in structs");
  // As for generated code, what has another type is another field.
  Read(Reply(Rows({RowOf(Field(8, 1, Int(5)) + Field(11, 2, Text("b")))}, 1)));
  ASSERT_EQ(page_.rows.size(), 1u);
  EXPECT_EQ(page_.rows[0].key, "");
  EXPECT_EQ(page_.rows[0].value, "b");
  Read(Reply(Field(11, 1, Text("rows"))));
  EXPECT_TRUE(page_.rows.empty());
}

TEST_F(ReceivedPageTest, FieldsThatComeTwiceAreRefused) {
  const std::string row = RowOf(Field(11, 1, Text("a")) + Field(11, 2, Text("b")));
  Refuses(Reply(Rows({RowOf(Field(11, 1, Text("a")) + Field(11, 1, Text("b")))}, 1)), "keys");
  Refuses(Reply(Rows({RowOf(Field(11, 2, Text("a")) + Field(11, 1, Text("b")))}, 1)), "fields that do not ascend");
  Refuses(Reply(Rows({row}, 1) + Rows({row}, 1)), "rows");
  const std::string success = Field(12, 0, Rows({row}, 1) + '\0');
  Refuses(Enclose(success + success + '\0'), "results");
  Refuses(Enclose(Field(12, 1, std::string(1, '\0')) + success + '\0'), "an error and a result");
}

// Whatever comes, nothing is read beyond the frame, and a row lies in it.
TEST_F(ReceivedPageTest, RandomDamage) {
  const uint64_t seed = Seeds(1).front();
  SCOPED_TRACE(Replay(seed));
  std::mt19937_64 random(seed);
  const std::string whole = Message();
  for (int i = 0; i < 20'000; ++i) {
    std::string message = whole;
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      message[random() % message.size()] = static_cast<char>(random() % 3 == 0 ? random() : random() % 16);
    }
    try {
      Read(message);
    } catch (const std::exception&) {
      EXPECT_TRUE(page_.rows.empty());
    }
    const std::string_view frame = page_.frame.view();
    for (const RowView& row : page_.rows) {
      for (const std::string_view part : {row.key, row.value}) {
        const bool inside = part.data() >= frame.data() && part.data() + part.size() <= frame.data() + frame.size();
        EXPECT_TRUE(part.empty() || inside);
      }
    }
  }
}

}  // namespace
}  // namespace pando::admin
