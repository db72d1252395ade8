// RangeReaders against a server in this process that holds a map: what comes, in which order, and how much of it is
// held while the caller does not take it.
#include "tools/kvadmin/range_readers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thrift/server/TThreadedServer.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TServerSocket.h>

#include <algorithm>
#include <future>
#include <map>
#include <thread>

#include "gen-cpp/pando_constants.h"
#include "src/base/hash.h"
#include "src/btree/tree_node.h"

namespace pando::admin {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr size_t kValueBytes = 1000;
constexpr auto kTooLong = 60s;  // only a failure reaches it

class Store final : public api::KvNull {
 public:
  explicit Store(int records) {
    for (int i = 0; i < records; ++i) rows_[fmt::format("k{:06}", i)] = std::string(kValueBytes, 'a' + i % 26);
  }

  void scan(api::ScanReply& reply, const api::Context&, const api::ScanRequest& request) override {
    auto at = request.cursor.empty() ? rows_.lower_bound(request.start_key) : rows_.upper_bound(request.cursor);
    for (int32_t n = 0; n < request.limit_rows && In(at, request.end_key); ++n, ++at) {
      if (at->first == refused_) {
        api::KvError error;
        error.code = api::g_pando_constants.CORRUPT;
        error.message = "damaged";
        throw error;
      }
      api::Row row;
      row.key = at->first;
      row.value = at->first == changed_ ? "changed" : at->second;
      row.version = 1;
      reply.rows.push_back(std::move(row));
    }
    if (In(at, request.end_key)) reply.cursor = reply.rows.back().key;
    sent_rows_ += reply.rows.size();
  }
  void aggregate(api::AggregateReply& reply, const api::Context&, const api::AggregateRequest& request) override {
    uint64_t hash = 0;
    for (auto at = rows_.lower_bound(request.start_key); In(at, request.end_key); ++at) {
      ++reply.count;
      reply.bytes += static_cast<int64_t>(at->first.size() + at->second.size());
      hash += RecordHash("", at->first, Hash64(at->second), 1, 0);
    }
    reply.content_hash = static_cast<int64_t>(hash);
  }
  void splitRange(api::SplitRangeReply& reply, const api::Context&, const api::SplitRangeRequest& request) override {
    std::vector<std::string> keys;
    for (auto at = rows_.lower_bound(request.start_key); In(at, request.end_key); ++at) keys.push_back(at->first);
    const size_t parts = static_cast<size_t>(request.parts) + too_many_parts_;
    ++splits_;
    for (size_t i = 0; i < parts; ++i) {
      const size_t first = keys.size() * i / parts, end = keys.size() * (i + 1) / parts;
      api::RangePart part;
      part.start_key = keys[first];
      part.end_key = end < keys.size() ? keys[end] : request.end_key;
      part.count = static_cast<int64_t>(end - first);
      part.bytes = part.count * static_cast<int64_t>(kValueBytes + keys[0].size());
      if (lies_ && i == 0) part.count = part.bytes = int64_t{1} << 62;
      reply.parts.push_back(std::move(part));
    }
  }

  uint64_t sent_rows() const { return sent_rows_; }
  RangeAggregates all() const { return {rows_.size(), rows_.size() * (kValueBytes + 7), 0}; }
  void Refuse(const std::string& key) { refused_ = key; }
  void Change(const std::string& key) { changed_ = key; }
  void SplitIntoMore() { too_many_parts_ = 1; }
  void LieAboutSizes() { lies_ = true; }
  int splits() const { return splits_; }

 private:
  bool In(std::map<std::string, std::string>::const_iterator at, const std::string& end_key) const {
    return at != rows_.end() && (end_key.empty() || at->first < end_key);
  }
  std::map<std::string, std::string> rows_;
  std::string refused_, changed_;
  size_t too_many_parts_ = 0;
  bool lies_ = false;
  std::atomic<int> splits_ = 0;
  std::atomic<uint64_t> sent_rows_ = 0;
};

class RangeReadersTest : public testing::Test {
 protected:
  static constexpr int kRecords = 20'000;  // 20 MB

  RangeReadersTest() : store_(std::make_shared<Store>(kRecords)) {
    using namespace apache::thrift;
    auto listener = std::make_shared<transport::TServerSocket>("127.0.0.1", 0);
    server_ = std::make_unique<server::TThreadedServer>(std::make_shared<api::KvProcessor>(store_), listener,
                                                        std::make_shared<transport::TFramedTransportFactory>(),
                                                        std::make_shared<protocol::TBinaryProtocolFactory>());
    struct Ready final : server::TServerEventHandler {
      void preServe() override { promise.set_value(); }
      std::promise<void> promise;
    };
    auto ready = std::make_shared<Ready>();
    server_->setServerEventHandler(ready);
    thread_ = std::thread([this] { server_->serve(); });
    ready->promise.get_future().wait();
    target_.address = fmt::format("127.0.0.1:{}", listener->getPort());
    options_.pool = &pool_;
    options_.range.snapshot = "snapshot";
    options_.expected = store_->all();
    options_.part_bytes = 2u << 20;
    options_.piece_bytes = 1u << 20;
    options_.page_rows = 100;
    options_.piece_time = 0ms;
  }
  ~RangeReadersTest() override {
    server_->stop();
    thread_.join();
  }

  std::vector<Target> Threads(size_t count) const { return std::vector<Target>(count, target_); }

  // Takes pieces until the end or an error, and gives their memory back. Keys ascend from one to the next.
  Status TakeAll(RangeReaders* readers) {
    const auto end = std::chrono::steady_clock::now() + kTooLong;
    while (std::chrono::steady_clock::now() < end) {
      ASSIGN_OR_RETURN(std::optional<RangeReaders::Piece> piece, readers->Next(100ms));
      if (!piece) continue;
      Took(*piece);
      if (piece->over) return Status();
    }
    return Error(Code::kDeadline, "the readers bring nothing");
  }
  void Took(RangeReaders::Piece& piece) {
    for (FileChunk& chunk : piece.encoded.chunks) {
      text_ += chunk.view();
      pool_.Give(std::move(chunk.buffer));
    }
    sums_.Add(piece.sums);
    EXPECT_TRUE(piece.over || piece.next_key > next_key_) << piece.next_key;
    next_key_ = piece.next_key;
  }
  // Whether `text_` has the rows up to, and without, this one, in order.
  void ExpectRows(int end) const {
    size_t at = 0;
    for (int i = 0; i < end; ++i) {
      const size_t found = text_.find(fmt::format("\"k{:06}\"", i), at);
      ASSERT_NE(found, std::string::npos) << "row " << i;
      at = found;
    }
    EXPECT_EQ(static_cast<int>(std::count(text_.begin(), text_.end(), '\n')), end);
  }

  std::shared_ptr<Store> store_;
  std::unique_ptr<apache::thrift::server::TThreadedServer> server_;
  std::thread thread_;
  Target target_;
  ChunkPool pool_;
  RangeReaders::Options options_;
  std::string text_, next_key_;
  RangeAggregates sums_;
};

TEST_F(RangeReadersTest, AllRowsComeInOrderHoweverManyThreadsRead) {
  for (const size_t threads : {1, 3}) {
    text_.clear();
    next_key_.clear();
    sums_ = {};
    RangeReaders readers(options_, Threads(threads));
    const Status status = TakeAll(&readers);
    EXPECT_TRUE(status.ok()) << status.ToString();
    ExpectRows(kRecords);
    EXPECT_EQ(sums_.count, store_->all().count);
    EXPECT_EQ(sums_.bytes, store_->all().bytes);
    EXPECT_NE(sums_.content_hash, 0u) << "the rows were verified";
  }
}

// The caller takes nothing until the readers have read what they may. What they then hold is bounded.
TEST_F(RangeReadersTest, ReadersWaitForTheCaller) {
  options_.buffer_bytes = 4u << 20;
  for (const size_t threads : {1, 2}) {
    const uint64_t sent_before = store_->sent_rows();
    sums_ = {};
    next_key_.clear();
    RangeReaders readers(options_, Threads(threads));
    const uint64_t piece_rows = options_.piece_bytes / kValueBytes;
    const uint64_t most_rows = options_.buffer_bytes / kValueBytes + (1 + threads) * (piece_rows + 200);
    // Time in which readers that do not wait would read too much; with those that do, nothing depends on it.
    const auto patience = std::chrono::steady_clock::now() + 300ms;
    while (store_->sent_rows() - sent_before <= most_rows && std::chrono::steady_clock::now() < patience) {
      std::this_thread::yield();
    }
    const auto end = std::chrono::steady_clock::now() + kTooLong;
    for (bool over = false; !over && std::chrono::steady_clock::now() < end;) {
      Result<std::optional<RangeReaders::Piece>> piece = readers.Next(100ms);
      ASSERT_TRUE(piece.ok()) << piece.status().ToString();
      if (!*piece) continue;
      Took(**piece);
      over = (*piece)->over;
      EXPECT_LE(store_->sent_rows() - sent_before - sums_.count, most_rows) << threads << " threads";
    }
    EXPECT_EQ(sums_.count, store_->all().count);
  }
}

TEST_F(RangeReadersTest, WhatComesBeforeAnErrorIsWhole) {
  store_->Refuse("k012345");
  options_.retry_ms = 0;
  RangeReaders readers(options_, Threads(3));
  const Status status = TakeAll(&readers);
  EXPECT_EQ(status.code(), Code::kCorruption) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr("damaged"));
  EXPECT_LE(sums_.count, 12'345u);
  EXPECT_GE(sums_.count, 8000u) << "the parts before";
  ExpectRows(static_cast<int>(sums_.count));
}

TEST_F(RangeReadersTest, RowsThatTheStoreCountsOtherwiseDoNotCome) {
  store_->Change("k012345");
  RangeReaders readers(options_, Threads(2));
  const Status status = TakeAll(&readers);
  EXPECT_EQ(status.code(), Code::kCorruption) << status.ToString();
  EXPECT_LE(sums_.count, 12'345u);
  ExpectRows(static_cast<int>(sums_.count));
}

TEST_F(RangeReadersTest, SplittingEndsWhateverTheServerSays) {
  store_->LieAboutSizes();
  {
    RangeReaders readers(options_, Threads(1));
    const Status status = TakeAll(&readers);
    EXPECT_TRUE(status.ok()) << status.ToString();
    ExpectRows(kRecords);
    EXPECT_LE(store_->splits(), 2);
  }
  store_->SplitIntoMore();
  RangeReaders readers(options_, Threads(1));
  const Status status = TakeAll(&readers);
  EXPECT_EQ(status.code(), Code::kCorruption) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr("parts"));
}

// The pause of one thread does not outlast the readers.
TEST_F(RangeReadersTest, PacedReadersStopAtOnce) {
  std::atomic<int> paced = 0;
  options_.pace = [&](uint64_t) {
    ++paced;
    return std::chrono::nanoseconds(1h);
  };
  RangeReaders readers(options_, Threads(1));
  const auto end = std::chrono::steady_clock::now() + kTooLong;
  while (paced == 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  const Result<std::optional<RangeReaders::Piece>> piece = readers.Next(0ms);
  ASSERT_TRUE(piece.ok()) << piece.status().ToString();
  EXPECT_FALSE(*piece);
}

}  // namespace
}  // namespace pando::admin
