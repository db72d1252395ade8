#include "src/model/record.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "tests/support/hand_bytes.h"

namespace pando {
namespace {

std::string Encode(const LogRecord& record) {
  std::string out;
  EncodeRecord(record, &out);
  return out;
}

void ExpectSame(const LogRecord& want, const LogRecord& got) {
  EXPECT_EQ(want.op, got.op);
  EXPECT_EQ(want.continues, got.continues);
  EXPECT_EQ(want.all_or_nothing, got.all_or_nothing);
  EXPECT_EQ(want.version, got.version);
  EXPECT_EQ(want.ttl_mode, got.ttl_mode);
  EXPECT_EQ(want.expires_at_ms, got.expires_at_ms);
  EXPECT_EQ(want.delta, got.delta);
  EXPECT_EQ(want.sequence, got.sequence);
  EXPECT_EQ(want.first_sent_ms, got.first_sent_ms);
  EXPECT_EQ(want.key, got.key);
  EXPECT_EQ(want.value, got.value);
  EXPECT_EQ(want.condition.version, got.condition.version);
  EXPECT_EQ(want.condition.value, got.condition.value);
  EXPECT_EQ(want.condition.exists, got.condition.exists);
}

// docs/FORMAT.md, "Log record". A change here changes the format: raise kLogFormatVersion.
TEST(LogRecord, GoldenBytes) {
  LogRecord put;
  put.version = 0x0102030405060708;
  put.key = "key";
  put.value = "value";
  EXPECT_EQ(Hex(Encode(put)), "01000807060504030201036b65790576616c7565");

  LogRecord full = put;
  full.continues = true;
  full.ttl_mode = TtlMode::kSet;
  full.expires_at_ms = 300;
  full.condition.version = 0x1122;
  full.condition.value = "x";
  full.condition.exists = true;
  EXPECT_EQ(Hex(Encode(full)), "017b0807060504030201d804036b65790576616c756522110000000000000178");

  LogRecord remove;
  remove.op = RecordOp::kRemove;
  remove.version = 1;
  remove.key = "k";
  remove.condition.exists = false;
  EXPECT_EQ(Hex(Encode(remove)), "02200100000000000000016b");

  LogRecord increment;
  increment.op = RecordOp::kIncrement;
  increment.version = 2;
  increment.ttl_mode = TtlMode::kClear;
  increment.key = "n";
  increment.delta = -3;
  EXPECT_EQ(Hex(Encode(increment)), "03040200000000000000016e05");

  LogRecord expire;
  expire.op = RecordOp::kExpire;
  expire.version = 3;
  expire.key = "k";
  expire.condition.version = 2;
  EXPECT_EQ(Hex(Encode(expire)), "04080300000000000000016b0200000000000000");

  LogRecord touch;
  touch.op = RecordOp::kTouch;
  touch.version = 4;
  touch.ttl_mode = TtlMode::kSet;
  touch.expires_at_ms = 300;
  touch.key = "k";
  EXPECT_EQ(Hex(Encode(touch)), "05020400000000000000d804016b");

  LogRecord check;
  check.op = RecordOp::kCheck;
  check.continues = true;
  check.all_or_nothing = true;
  check.version = 5;
  check.key = "k";
  check.condition.exists = true;
  EXPECT_EQ(Hex(Encode(check)), "06e1010500000000000000016b");

  LogRecord epoch_start;
  epoch_start.op = RecordOp::kEpochStart;
  epoch_start.version = 6;
  EXPECT_EQ(Hex(Encode(epoch_start)), "0700060000000000000000");

  LogRecord once;
  once.op = RecordOp::kOnce;
  once.continues = true;
  once.version = 7;
  once.key = "c";
  once.sequence = 300;
  once.first_sent_ms = 1;
  EXPECT_EQ(Hex(Encode(once)), "080107000000000000000163ac0201");  // as an earlier version wrote it
  once.digest = 0x1122334455667788;
  EXPECT_EQ(Hex(Encode(once)), "08810207000000000000000163ac02018877665544332211");

  LogRecord close;
  close.op = RecordOp::kClose;
  close.version = 8;
  close.ttl_mode = TtlMode::kSet;
  close.expires_at_ms = 300;
  close.snapshot = 0x1122334455667788;
  EXPECT_EQ(Hex(Encode(close)), "09020800000000000000d804008877665544332211");
  LogRecord lease = close;
  lease.op = RecordOp::kLease;
  lease.version = 9;
  lease.expires_at_ms = 400;
  EXPECT_EQ(Hex(Encode(lease)), "0a020900000000000000a006008877665544332211");
  lease.version = 10;
  lease.ttl_mode = TtlMode::kClear;
  EXPECT_EQ(Hex(Encode(lease)), "0a040a00000000000000008877665544332211");

  LogRecord feed;
  feed.op = RecordOp::kFeed;
  feed.continues = true;
  feed.version = 11;
  feed.key = "c";
  feed.condition.version = 3;
  EXPECT_EQ(Hex(Encode(feed)), "0b090b0000000000000001630300000000000000");
  LogRecord copy;
  copy.version = 12;
  copy.ttl_mode = TtlMode::kClear;
  copy.copied = 5;
  copy.key = "k";
  copy.value = "v";
  EXPECT_EQ(Hex(Encode(copy)), "0184040c00000000000000016b01760500000000000000");
}

// A copy says all that it leaves, and its own version is not below that of what it copies.
TEST(LogRecord, CopiesThatNobodyWritesAreRefused) {
  LogRecord copy;
  copy.version = 12;
  copy.ttl_mode = TtlMode::kSet;
  copy.expires_at_ms = 300;
  copy.copied = 12;
  copy.key = "k";
  auto code = [](const LogRecord& record) {
    const std::string bytes = Encode(record);
    ByteReader reader(bytes);
    return DecodeRecord(&reader).code();
  };
  EXPECT_EQ(code(copy), Code::kOk);
  for (auto change : std::vector<std::function<void(LogRecord*)>>{
           [](LogRecord* r) { r->copied = 13; }, [](LogRecord* r) { r->copied = 0; },
           [](LogRecord* r) { r->ttl_mode = TtlMode::kKeep; }, [](LogRecord* r) { r->condition.exists = true; },
           [](LogRecord* r) { r->op = RecordOp::kRemove; }}) {
    LogRecord wrong = copy;
    change(&wrong);
    EXPECT_EQ(code(wrong), Code::kCorruption);
  }
}

// What a mark of a snapshot must have, and must not have.
TEST(LogRecord, MarksThatNobodyWritesAreRefused) {
  LogRecord close;
  close.op = RecordOp::kClose;
  close.version = 8;
  close.ttl_mode = TtlMode::kSet;
  close.expires_at_ms = 300;
  close.snapshot = 7;
  auto code = [](const LogRecord& record) {
    const std::string bytes = Encode(record);
    ByteReader reader(bytes);
    return DecodeRecord(&reader).code();
  };
  auto with = [&](auto change) {
    LogRecord changed = close;
    change(&changed);
    return code(changed);
  };
  EXPECT_EQ(code(close), Code::kOk);
  EXPECT_EQ(with([](LogRecord* r) { r->snapshot = 0; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->expires_at_ms = 0; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->ttl_mode = TtlMode::kClear; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->ttl_mode = TtlMode::kKeep; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->key = "k"; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->continues = true; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->all_or_nothing = true; }), Code::kCorruption);
  EXPECT_EQ(with([](LogRecord* r) { r->condition.exists = true; }), Code::kCorruption);
}

// Records of format version 1 of the log, which must stay readable. Never change these bytes.
TEST(LogRecord, BytesOfVersionOneAreRead) {
  const std::pair<std::string_view, RecordOp> fixtures[] = {
      {"01000807060504030201036b65790576616c7565", RecordOp::kPut},
      {"017b0807060504030201d804036b65790576616c756522110000000000000178", RecordOp::kPut},
      {"02200100000000000000016b", RecordOp::kRemove},
      {"03040200000000000000016e05", RecordOp::kIncrement},
      {"04080300000000000000016b0200000000000000", RecordOp::kExpire},
  };
  for (const auto& [hex, op] : fixtures) {
    const std::string bytes = FromHex(hex);
    ByteReader reader(bytes);
    auto record = DecodeRecord(&reader);
    ASSERT_TRUE(record.ok()) << hex << ": " << record.status().ToString();
    EXPECT_EQ(record->op, op);
    EXPECT_FALSE(record->all_or_nothing);
    EXPECT_EQ(reader.remaining(), 0u);
    EXPECT_EQ(Hex(Encode(*record)), hex);  // encoding them again gives the same bytes
  }
}

struct RandomRecord {
  std::string key, value, condition_value;
  LogRecord record;

  explicit RandomRecord(std::mt19937_64& random) {
    auto bytes = [&](size_t most) {
      std::string s(random() % (most + 1), '\0');
      for (char& c : s) c = static_cast<char>(random());
      return s;
    };
    auto number = [&] { return random() >> (random() % 64); };
    key = bytes(random() % 8 == 0 ? 2048 : 40);
    value = bytes(random() % 8 == 0 ? 70000 : 300);
    condition_value = bytes(50);
    record.op = static_cast<RecordOp>(1 + random() % 6);
    if (random() % 8 == 0) {
      MakeOnce(number(), static_cast<int64_t>(number() >> 1));
      return;
    }
    record.continues = random() % 2;
    record.all_or_nothing = random() % 3 == 0;
    record.version = number();
    record.ttl_mode = static_cast<TtlMode>(random() % 3);
    if (record.op == RecordOp::kTouch) record.ttl_mode = random() % 2 ? TtlMode::kSet : TtlMode::kClear;
    if (record.op == RecordOp::kCheck) record.ttl_mode = TtlMode::kKeep;
    if (record.ttl_mode == TtlMode::kSet) record.expires_at_ms = static_cast<int64_t>(number());
    if (record.op == RecordOp::kIncrement) record.delta = static_cast<int64_t>(number()) * (random() % 2 ? 1 : -1);
    record.key = key;
    if (record.op == RecordOp::kPut) record.value = value;
    if (random() % 2) record.condition.version = number();
    if (random() % 2) record.condition.value = condition_value;
    if (random() % 2) record.condition.exists = random() % 2 == 0;
    if (record.op == RecordOp::kExpire || (record.op == RecordOp::kCheck && record.condition.empty())) {
      record.condition.version = number();
    }
  }
  void MakeOnce(uint64_t sequence, int64_t first_sent_ms) {
    record.op = RecordOp::kOnce;
    record.continues = true;
    record.key = key += "!";
    record.sequence = (sequence >> 1) + 1;
    record.first_sent_ms = (first_sent_ms >> 1) + 1;
    if (sequence % 2 == 0) record.digest = sequence * 3;
  }
};

TEST(LogRecord, RandomRecordsRoundTripOneAfterAnother) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::unique_ptr<RandomRecord>> records;
    std::string bytes;
    for (size_t n = 1 + random() % 20; n > 0; --n) {
      records.push_back(std::make_unique<RandomRecord>(random));
      EncodeRecord(records.back()->record, &bytes);
    }
    ByteReader reader(bytes);
    for (const auto& want : records) {
      auto got = DecodeRecord(&reader);
      ASSERT_TRUE(got.ok()) << got.status().ToString();
      ExpectSame(want->record, *got);
    }
    EXPECT_EQ(reader.remaining(), 0u);
  }
}

TEST(LogRecord, EveryTruncationIsCorruption) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    const std::string bytes = Encode(RandomRecord(random).record);
    for (size_t n = 0; n < bytes.size(); n += 1 + bytes.size() / 500) {
      ByteReader reader(std::string_view(bytes).substr(0, n));
      EXPECT_EQ(DecodeRecord(&reader).code(), Code::kCorruption) << n << " of " << Hex(bytes);
    }
  }
}

TEST(LogRecord, ImpossibleBytesAreCorruption) {
  LogRecord put;
  put.key = "key";
  const std::string good = Encode(put);
  auto code = [&](size_t at, uint8_t byte) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(byte);
    ByteReader reader(bytes);
    return DecodeRecord(&reader).code();
  };
  EXPECT_EQ(code(0, 1), Code::kOk);
  EXPECT_EQ(code(0, 0), Code::kCorruption);      // no operation
  EXPECT_EQ(code(0, 7), Code::kCorruption);      // an epoch start with a key
  EXPECT_EQ(code(0, 8), Code::kCorruption);      // a once without a sequence
  EXPECT_EQ(code(0, 9), Code::kCorruption);      // a close with a key
  EXPECT_EQ(code(0, 10), Code::kCorruption);     // a lease with a key
  EXPECT_EQ(code(0, 11), Code::kCorruption);     // a feed without a condition
  EXPECT_EQ(code(0, 12), Code::kCorruption);     // an unknown operation
  EXPECT_EQ(code(0, 4), Code::kCorruption);      // an expire without a version condition
  EXPECT_EQ(code(0, 5), Code::kCorruption);      // a touch that keeps the expiry
  EXPECT_EQ(code(0, 6), Code::kCorruption);      // a check without a condition
  EXPECT_EQ(code(1, 0x06), Code::kCorruption);   // TTL mode 3
  EXPECT_EQ(code(1, 0x40), Code::kCorruption);   // kIfExists without kIfExistence
  EXPECT_EQ(code(10, 0xff), Code::kCorruption);  // a key longer than the record
  for (int more = 0; more < 256; ++more) {       // a second byte of flags: only 1 is valid
    std::string bytes = good;
    bytes[1] = static_cast<char>(0x80);
    bytes.insert(2, 1, static_cast<char>(more));
    ByteReader reader(bytes);
    EXPECT_EQ(DecodeRecord(&reader).code(), more == 1 ? Code::kOk : Code::kCorruption) << more;
  }
}

}  // namespace
}  // namespace pando
