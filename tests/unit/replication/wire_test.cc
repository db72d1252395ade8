// The encoding of what nodes say to each other: golden bytes, round trips, and bytes that are cut or
// make no sense (PM1, PM2).
#include "src/replication/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/replication/frame_reader.h"
#include "tests/support/random_messages.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando::replication {
namespace {

using testing::HasSubstr;

std::string Hex(std::string_view bytes) {
  std::string out;
  for (unsigned char c : bytes) out += fmt::format("{:02x}", c);
  return out;
}

const ReplicaId kFrom{0x1111111111111111, 0x2222222222222222};
const ReplicaId kTo{0x3333333333333333, 0x4444444444444444};
// As kFrom and kTo lie in a message.
constexpr std::string_view kIdsHex =
    "11111111111111112222222222222222"
    "33333333333333334444444444444444";

std::string Encoded(const Message& message, uint32_t partition = 0x0a0b0c0d) {
  std::string out;
  EncodeMessage(kProtocolMax, partition, message, &out);
  EXPECT_EQ(out.size(), EncodedBytes(kProtocolMax, message));
  // So far, all versions have the same messages.
  for (uint32_t older = kProtocolMin; older < kProtocolMax; ++older) {
    std::string same;
    EncodeMessage(older, partition, message, &same);
    EXPECT_EQ(same, out);
  }
  return out;
}
std::string Encoded(decltype(Message::body) body) { return Encoded(Message{kFrom, kTo, std::move(body)}); }

// The head and the body of a golden message.
std::string Golden(std::string_view bytes_hex, std::string_view kind_hex, std::string_view body_hex) {
  return fmt::format("{}{}000000{}00000000{}{}", bytes_hex, kind_hex, "0d0c0b0a", kIdsHex, body_hex);
}

// Numbers of 8 bytes, as they lie in a message.
std::string U64s(std::initializer_list<uint64_t> values) {
  std::string out;
  for (uint64_t value : values) {
    for (int i = 0; i < 8; ++i) out += fmt::format("{:02x}", value >> (8 * i) & 0xff);
  }
  return out;
}

TEST(PeerWire, GoldenMessages) {
  EXPECT_EQ(Hex(Encoded(Heartbeat{1, 2, -3, 4, 5, 6})),
            Golden("60000000", "01", "01000000000000000200000000000000fdffffffffffffff" + U64s({4, 5, 6})));
  EXPECT_EQ(Hex(Encoded(HeartbeatAck{1, 2, 3, 4, 5})), Golden("60000000", "02", U64s({1, 2, 3, 4, 5, 0})));
  EXPECT_EQ(Hex(Encoded(HeartbeatAck{1, 2, 3, 4, 5, true})), Golden("60000000", "02", U64s({1, 2, 3, 4, 5, 1})));
  EXPECT_EQ(Hex(Encoded(AlignRequest{1, 2})), Golden("40000000", "03", U64s({1, 2})));
  AlignReply reply;
  reply.epoch = 1;
  reply.number = 12;
  reply.incarnation = 2;
  reply.log_end = {5, 6, 7};
  reply.committed = {13, 14, 15};
  reply.more = true;
  reply.ends = {{8, 9, 10}};
  EXPECT_EQ(Hex(Encoded(reply)),
            Golden("a0000000", "04", U64s({1, 12, 2, 5, 6, 7, 13, 14, 15, 0}) + "0100000001000000" + U64s({8, 9, 10})));
  reply.more = false;
  reply.ends.clear();
  reply.refused = 11;
  EXPECT_EQ(Hex(Encoded(reply)),
            Golden("88000000", "04", U64s({1, 12, 2, 5, 6, 7, 13, 14, 15, 11}) + "0200000000000000"));
  Append append;
  append.epoch = 1;
  append.after = {5, 6, 7};
  append.units = "units";
  append.commit_lsn = 4;
  EXPECT_EQ(Hex(Encoded(append)), Golden("5d000000", "05", U64s({1, 5, 6, 7, 4}) + "756e697473"));
  AppendAck ack;
  ack.epoch = 1;
  ack.incarnation = 2;
  ack.durable = {5, 6, 7};
  ack.applied_lsn = 4;
  ack.installed = true;
  ack.room = 8;
  EXPECT_EQ(Hex(Encoded(ack)), Golden("70000000", "06", U64s({1, 2, 5, 6, 7, 4, 8}) + "0100000000000000"));
  ack.installed = false;
  ack.apply_stalled = true;
  EXPECT_EQ(Hex(Encoded(ack)), Golden("70000000", "06", U64s({1, 2, 5, 6, 7, 4, 8}) + "0200000000000000"));
  EXPECT_EQ(Hex(Encoded(Fenced{1, 2})), Golden("40000000", "07", U64s({1, 2})));
  EXPECT_EQ(Hex(Encoded(PromiseRequest{1, 2})), Golden("40000000", "08", U64s({1, 2})));
  PromiseReply promise;
  promise.epoch = 1;
  promise.promised = true;
  promise.highest = 2;
  promise.revision = 3;
  promise.end = {5, 6, 7};
  EXPECT_EQ(Hex(Encoded(promise)), Golden("68000000", "09", U64s({1, 2, 3, 5, 6, 7}) + "0100000000000000"));
  promise.promised = false;
  promise.stands_back = true;
  EXPECT_EQ(Hex(Encoded(promise)), Golden("68000000", "09", U64s({1, 2, 3, 5, 6, 7}) + "0200000000000000"));
  EXPECT_EQ(Hex(Encoded(CampaignNow{1})), Golden("38000000", "0a", U64s({1})));
  EXPECT_EQ(Hex(Encoded(Resign{1, 2, 3})), Golden("48000000", "0b", U64s({1, 2, 3})));
  EXPECT_EQ(Hex(Encoded(Condemn{1, 2})), Golden("40000000", "0c", U64s({1, 2})));
  EXPECT_EQ(Hex(Encoded(InstallOffer{1, 2})), Golden("40000000", "0d", U64s({1, 2})));
}

PeerHello SomeHello() {
  PeerHello hello;
  hello.cluster_id = kFrom;
  hello.from = 1;
  hello.to = 2;
  hello.from_reactor = 3;
  hello.to_reactor = 4;
  hello.incarnation = 5;
  hello.protocol_min = 6;
  hello.protocol_max = 8;
  hello.protocol = 7;
  hello.guard = true;
  return hello;
}

TEST(PeerWire, GoldenFrames) {
  EXPECT_EQ(Hex(HelloFrame(SomeHello())),
            "40000000"
            "01"
            "000000"
            "d1ddc3abbb1d907c"
            "504e444f50454552"
            "06000000"
            "08000000"
            "07000000"
            "01000000"
            "11111111111111112222222222222222"
            "01000000"
            "02000000"
            "03000000"
            "04000000"
            "0500000000000000");
  HelloReply reply;
  reply.verdict = HelloVerdict::kOldIncarnation;
  reply.protocol_min = 1;
  reply.protocol_max = 2;
  reply.incarnation = 3;
  reply.reason = "no";
  EXPECT_EQ(Hex(HelloReplyFrame(reply)),
            "1a000000"
            "02"
            "000000"
            "09ae7e373f1e684b"
            "05000000"
            "01000000"
            "02000000"
            "02000000"
            "0300000000000000"
            "6e6f");
  EXPECT_EQ(Hex(DeathNoticeFrame(7, 8)),
            "10000000"
            "04"
            "000000"
            "7f73fa542648560d"
            "07000000"
            "00000000"
            "0800000000000000");
  EXPECT_EQ(Hex(EmptyFrame(PeerFrame::kPing)),
            "00000000"
            "05"
            "000000"
            "8293e885d67fad2c");
  EXPECT_EQ(Hex(EmptyFrame(PeerFrame::kPong)),
            "00000000"
            "06"
            "000000"
            "df3362b9099e0fc1");
}

// -- round trips

// The only message of the body of a frame.
Result<Message> Decoded(std::string_view body, uint32_t* partition) {
  MessagesReader reader(kProtocolMax, body);
  ASSIGN_OR_RETURN(const bool more, reader.Next());
  if (!more) return Error(Code::kNotFound, "there is no message");
  *partition = reader.partition;
  Message message = reader.message;
  ASSIGN_OR_RETURN(const bool another, reader.Next());
  if (another) return Error(Code::kAlreadyExists, "there is another message");
  return message;
}

TEST(PeerWire, MessagesComeBackAsTheyWere) {
  for (uint64_t seed : Seeds(300)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    std::string body;
    std::vector<std::pair<uint32_t, std::string>> sent;
    std::vector<size_t> kinds;
    const size_t count = 1 + random.Below(20);
    for (size_t i = 0; i < count; ++i) {
      const Message message = RandomMessage(random, random.Below(kMessageKinds));
      const auto partition = static_cast<uint32_t>(random.Next());
      sent.emplace_back(partition, Encoded(message, partition));
      kinds.push_back(message.body.index());
      EncodeMessage(kProtocolMax, partition, message, &body);
    }
    MessagesReader reader(kProtocolMax, body);
    for (size_t i = 0; i < count; ++i) {
      Result<bool> more = reader.Next();
      ASSERT_TRUE(more.ok() && *more) << more.status().ToString();
      EXPECT_EQ(reader.partition, sent[i].first);
      EXPECT_EQ(reader.message.body.index(), kinds[i]);
      EXPECT_EQ(Hex(Encoded(reader.message, reader.partition)), Hex(sent[i].second));
    }
    Result<bool> more = reader.Next();
    EXPECT_TRUE(more.ok() && !*more);
  }
}

TEST(PeerWire, FieldsComeBackWhereTheyWere) {
  AlignReply reply;
  reply.epoch = 1;
  reply.incarnation = 2;
  reply.log_end = {3, 4, 5};
  reply.more = true;
  reply.refused = 0;
  reply.ends = {{6, 7, 8}, {9, 10, 11}};
  uint32_t partition = 0;
  Result<Message> message = Decoded(Encoded(Message{kFrom, kTo, reply}, 12), &partition);
  ASSERT_TRUE(message.ok()) << message.status().ToString();
  EXPECT_EQ(partition, 12u);
  EXPECT_EQ(message->from, kFrom);
  EXPECT_EQ(message->to, kTo);
  const auto& got = std::get<AlignReply>(message->body);
  EXPECT_EQ(got.epoch, 1u);
  EXPECT_EQ(got.incarnation, 2u);
  EXPECT_EQ(got.log_end.lsn, 4u);
  EXPECT_TRUE(got.more);
  EXPECT_EQ(got.refused, std::optional<Lsn>(0));
  ASSERT_EQ(got.ends.size(), 2u);
  EXPECT_EQ(got.ends[1].chain, 11u);

  Append append;
  append.epoch = 1;
  append.after = {2, 3, 4};
  append.units = std::string("a\0b", 3);
  append.commit_lsn = 5;
  message = Decoded(Encoded(Message{kFrom, kTo, append}), &partition);
  ASSERT_TRUE(message.ok()) << message.status().ToString();
  EXPECT_EQ(std::get<Append>(message->body).units, append.units);
  EXPECT_EQ(std::get<Append>(message->body).after.chain, 4u);
  EXPECT_EQ(std::get<Append>(message->body).commit_lsn, 5u);
}

TEST(PeerWire, Greetings) {
  const PeerHello hello = SomeHello();
  const std::string frame = HelloFrame(hello);
  Result<PeerHello> got = DecodeHello(std::string_view(frame).substr(sizeof(PeerFrameHeader)));
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(*got, hello);
  // A later version may append to it.
  got = DecodeHello(frame.substr(sizeof(PeerFrameHeader)) + "more");
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(*got, hello);

  HelloReply reply;
  reply.verdict = HelloVerdict::kOtherNode;
  reply.protocol_min = 2;
  reply.protocol_max = 3;
  reply.incarnation = 4;
  reply.reason = std::string(1000, 'x');
  Result<HelloReply> answer = DecodeHelloReply(HelloReplyFrame(reply).substr(sizeof(PeerFrameHeader)));
  ASSERT_TRUE(answer.ok());
  reply.reason.resize(kMaxRefusalBytes);
  EXPECT_EQ(*answer, reply);
  reply.reason = "two\nlines";
  answer = DecodeHelloReply(HelloReplyFrame(reply).substr(sizeof(PeerFrameHeader)));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->reason, "two?lines");
}

// -- what is cut, or makes no sense

TEST(PeerWire, EveryCutIsNoticed) {
  for (size_t kind = 0; kind < kMessageKinds; ++kind) {
    SimRandom random(kind + 1);
    const std::string whole = Encoded(RandomMessage(random, kind));
    uint32_t partition = 0;
    for (size_t length = 1; length < whole.size(); ++length) {
      const std::string cut = whole.substr(0, length);  // of that size, so that asan sees a read beyond it
      Result<Message> message = Decoded(cut, &partition);
      ASSERT_FALSE(message.ok()) << kind << " cut at " << length;
      EXPECT_EQ(message.code(), Code::kCorruption);
      // Also when its length says that it is whole. Only units may end anywhere: the follower looks at them.
      constexpr size_t kHead = 48, kAppend = 40;
      if (length < kHead || (kind == kAppendKind && length >= kHead + kAppend)) continue;
      std::string shorter = cut;
      StoreLE(shorter.data(), static_cast<uint32_t>(length));
      message = Decoded(shorter, &partition);
      ASSERT_FALSE(message.ok()) << kind << " ends at " << length;
      EXPECT_EQ(message.code(), Code::kCorruption);
    }
  }
  const std::string hello = HelloFrame(SomeHello()).substr(sizeof(PeerFrameHeader));
  for (size_t length = 0; length < hello.size(); ++length) EXPECT_FALSE(DecodeHello(hello.substr(0, length)).ok());
  HelloReply refusal;
  refusal.reason = "because";
  const std::string reply = HelloReplyFrame(refusal).substr(sizeof(PeerFrameHeader));
  for (size_t length = 0; length < reply.size(); ++length) {
    EXPECT_FALSE(DecodeHelloReply(reply.substr(0, length)).ok());
  }
  const std::string notice = DeathNoticeFrame(1, 2).substr(sizeof(PeerFrameHeader));
  for (size_t length = 0; length < notice.size(); ++length) {
    EXPECT_FALSE(DecodeDeathNotice(notice.substr(0, length)).ok());
  }
}

// `bytes` with a T at `at`.
template <typename T>
std::string With(std::string bytes, size_t at, T value) {
  StoreLE(bytes.data() + at, value);
  return bytes;
}

TEST(PeerWire, NonsenseIsRefused) {
  constexpr size_t kKindAt = 4, kFromAt = 16, kToAt = 32, kBodyAt = 48;
  constexpr size_t kEndsAt = 84;  // in an align reply
  const std::string beat = Encoded(Heartbeat{1, 2, 3, 4, 5, 6});
  AlignReply align;
  align.epoch = 1;
  align.ends.resize(kMaxNamedEnds);
  const std::string reply = Encoded(align);
  std::string many = reply + std::string(24, '\0');  // one end more than there may be
  many = With(With(many, 0, static_cast<uint32_t>(many.size())), kBodyAt + kEndsAt, uint32_t{kMaxNamedEnds + 1});
  Append append;
  append.epoch = 1;
  append.units.resize(kMaxUnitsBytes);
  std::string long_units = Encoded(append) + "x";
  long_units = With(long_units, 0, static_cast<uint32_t>(long_units.size()));
  const struct {
    const char* what;
    std::string bytes;
  } cases[] = {
      {"no sender", With(beat, kFromAt, Uuid())},
      {"no addressee", With(beat, kToAt, Uuid())},
      {"to itself", With(beat, kToAt, kFrom)},
      {"no epoch", With(beat, kBodyAt, uint64_t{0})},
      {"kind 0", With(beat, kKindAt, uint8_t{0})},
      {"a kind of later", With(beat, kKindAt, uint8_t{13})},
      {"another kind", With(beat, kKindAt, uint8_t{2})},
      {"reserved", With(beat, 5, uint8_t{1})},
      {"reserved", With(beat, 12, uint32_t{1})},
      {"shorter than its head", With(beat, 0, uint32_t{47})},
      {"longer than the frame", With(beat, 0, uint32_t{UINT32_MAX})},
      {"unknown flags", With(reply, kBodyAt + kEndsAt - 4, uint32_t{4})},
      {"an LSN that was not refused", With(reply, kBodyAt + kEndsAt - 12, uint64_t{1})},
      {"fewer ends than it says", With(reply, kBodyAt + kEndsAt, uint32_t{kMaxNamedEnds - 1})},
      {"2^32 ends", With(reply, kBodyAt + kEndsAt, uint32_t{UINT32_MAX})},
      {"too many ends", many},
      {"too many units", long_units},
      {"unknown flags", With(Encoded(AppendAck{1, 2, {}, 3, true}), kBodyAt + 56, uint32_t{4})},
      {"unknown flags", With(Encoded(PromiseReply{1, true, 2, 3, {}}), kBodyAt + 48, uint32_t{4})},
  };
  for (const auto& c : cases) {
    uint32_t partition = 0;
    Result<Message> message = Decoded(c.bytes, &partition);
    EXPECT_EQ(message.code(), Code::kCorruption) << c.what;
  }
  uint32_t partition = 0;
  EXPECT_TRUE(Decoded(reply, &partition).ok());
  EXPECT_TRUE(Decoded(Encoded(append), &partition).ok());

  const std::string hello = HelloFrame(SomeHello()).substr(sizeof(PeerFrameHeader));
  EXPECT_EQ(DecodeHello(With(hello, 0, uint64_t{1})).code(), Code::kCorruption);
  const std::string notice = DeathNoticeFrame(1, 2).substr(sizeof(PeerFrameHeader));
  EXPECT_EQ(DecodeDeathNotice(With(notice, 0, uint32_t{0})).code(), Code::kCorruption);
  EXPECT_EQ(DecodeDeathNotice(With(notice, 4, uint32_t{1})).code(), Code::kCorruption);
  HelloReply refusal;
  refusal.reason = "because";
  const std::string refused = HelloReplyFrame(refusal).substr(sizeof(PeerFrameHeader));
  EXPECT_EQ(DecodeHelloReply(With(refused, 12, uint32_t{UINT32_MAX})).code(), Code::kCorruption);
}

// -- frames

struct Reading {
  explicit Reading(int64_t memory_bytes = 1 << 30) : budget(memory_bytes), account(&budget), reader(&account) {
    reader.SetLimit(kMaxPeerFrameBytes);
  }
  Status Take(std::string_view bytes) {
    const std::string exact(bytes);
    return reader.Take(exact, [this](PeerFrame kind, std::string_view body) {
      frames.emplace_back(kind, body);
      return frames.size() < stop_after;
    });
  }
  MemoryBudget budget;
  BudgetAccount account;
  FrameReader reader;
  std::vector<std::pair<PeerFrame, std::string>> frames;
  size_t stop_after = SIZE_MAX;
};

std::string FrameOf(size_t body_bytes, char fill) {
  std::string frame;
  BeginFrame(&frame);
  frame.append(body_bytes, fill);
  SealFrame(PeerFrame::kMessages, &frame);
  return frame;
}

TEST(FrameReader, TakesFramesInPiecesOfAnySize) {
  for (uint64_t seed : Seeds(50)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    std::string stream;
    std::vector<size_t> sizes;
    for (size_t i = 0; i < 20; ++i) {
      sizes.push_back(random.Chance(0.2) ? 0 : random.Below(random.Chance(0.2) ? 100'000 : 300));
      stream += FrameOf(sizes.back(), static_cast<char>('a' + i));
    }
    Reading reading;
    const size_t most = random.Chance(0.5) ? 20 : 50'000;
    for (size_t at = 0; at < stream.size();) {
      const size_t piece = 1 + random.Below(most);
      ASSERT_TRUE(reading.Take(std::string_view(stream).substr(at, piece)).ok());
      at += piece;
    }
    EXPECT_FALSE(reading.reader.partial());
    EXPECT_EQ(reading.account.in_use_bytes(), 0);
    ASSERT_EQ(reading.frames.size(), sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_TRUE(reading.frames[i].second == std::string(sizes[i], static_cast<char>('a' + i))) << i;
    }
  }
}

// Every bit of a frame matters (PM2).
TEST(FrameReader, NoticesEveryFlippedBit) {
  const std::string frame = HelloFrame(SomeHello());
  for (size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    std::string flipped = frame;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    Reading reading;
    const Status status = reading.Take(flipped);
    EXPECT_TRUE(reading.frames.empty()) << bit;
    // A greater length means that more would have to come.
    EXPECT_TRUE(!status.ok() || reading.reader.partial()) << bit;
  }
}

TEST(FrameReader, RefusesWhatIsNoFrame) {
  const struct {
    std::string bytes;
    std::string why;
  } cases[] = {
      {"GET / HTTP/1.1\r\n", "no frame"},
      {std::string(16, '\0'), "no frame"},
      {With(EmptyFrame(PeerFrame::kPing), 4, uint8_t{7}), "no frame"},
      {With(EmptyFrame(PeerFrame::kPing), 5, uint8_t{1}), "no frame"},
      {With(EmptyFrame(PeerFrame::kPing), 0, uint32_t{kMaxSmallFrameBytes + 1}), "the limit is 512"},
      {With(FrameOf(0, 'x'), 0, uint32_t{kMaxPeerFrameBytes + 1}), "the limit is"},
      {With(FrameOf(0, 'x'), 0, UINT32_MAX), "the limit is"},
      {With(FrameOf(9, 'x'), 8, uint64_t{1}), "checksum"},
  };
  for (const auto& c : cases) {
    Reading reading;
    const Status status = reading.Take(c.bytes);
    EXPECT_EQ(status.code(), Code::kCorruption) << c.why;
    EXPECT_THAT(status.message(), HasSubstr(c.why));
    EXPECT_EQ(reading.account.in_use_bytes(), 0);
  }
  // Who has not been accepted has less.
  Reading stranger;
  stranger.reader.SetLimit(kMaxSmallFrameBytes);
  EXPECT_THAT(stranger.Take(FrameOf(kMaxSmallFrameBytes + 1, 'x')).message(), HasSubstr("where the limit is 512"));
}

// Memory is reserved for what has arrived, not for what is announced (LK1).
TEST(FrameReader, ReservesWhatHasArrived) {
  const std::string frame = FrameOf(4 << 20, 'x');
  Reading reading;
  ASSERT_TRUE(reading.Take(std::string_view(frame).substr(0, 1000)).ok());
  EXPECT_LE(reading.account.in_use_bytes(), 1000);
  EXPECT_GT(reading.account.in_use_bytes(), 0);
  for (size_t at = 1000; at < frame.size(); at += 10'000) {
    ASSERT_TRUE(reading.Take(std::string_view(frame).substr(at, 10'000)).ok());
    EXPECT_LE(reading.account.in_use_bytes(), std::max<int64_t>(2048, 2 * static_cast<int64_t>(at + 10'000)));
  }
  EXPECT_EQ(reading.frames.size(), 1u);
  EXPECT_EQ(reading.account.in_use_bytes(), 0);
}

TEST(FrameReader, SkipsWhatItHasNoMemoryFor) {
  Reading reading(/*memory_bytes=*/100'000);
  const std::string stream = FrameOf(50'000, 'a') + FrameOf(200'000, 'b') + FrameOf(50'000, 'c');
  for (size_t at = 0; at < stream.size(); at += 7'000) {
    ASSERT_TRUE(reading.Take(std::string_view(stream).substr(at, 7'000)).ok());
    EXPECT_LE(reading.budget.used_bytes(), 100'000);
  }
  ASSERT_EQ(reading.frames.size(), 2u);
  EXPECT_EQ(reading.frames[1].second[0], 'c');
  EXPECT_EQ(reading.reader.skipped(), 1u);
  EXPECT_EQ(reading.account.in_use_bytes(), 0);
}

TEST(FrameReader, StopsWhenItIsTold) {
  Reading reading;
  reading.stop_after = 1;
  ASSERT_TRUE(reading.Take(FrameOf(10, 'a') + FrameOf(10, 'b')).ok());
  EXPECT_EQ(reading.frames.size(), 1u);
}

}  // namespace
}  // namespace pando::replication
