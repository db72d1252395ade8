// RangeReaders: several threads that read a range part by part, verify and encode the rows, and one caller that gets
// the encoded pieces in key order.
//
// The range is split into parts of a bounded number of bytes (splitRange), and each thread reads the next part that
// nobody has begun. A part comes as one or more pieces. Rows count as read only when they are verified: number, bytes
// and content hash of each piece are those that the store counts at the same snapshot (VerifiedRows). Without a
// snapshot, nothing can be verified.
//
// Threads: the object belongs to one. Its threads have connections of their own, share what `mutex_` and `plan_mutex_`
// protect, and have ended when the destructor returns.
//
// Memory: pieces that wait for the caller take at most Options::buffer_bytes, and one piece more, which the caller gets
// next. A thread whose piece has no room waits with it. So what is held is that, a piece and a page of each thread, and
// what the pool keeps for later pieces. While a thread encodes a page, it has asked for the next one, unless it is
// paced.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "src/base/result.h"
#include "src/model/types.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/export_format.h"
#include "tools/kvadmin/file_chunk.h"
#include "tools/kvadmin/range.h"
#include "tools/kvadmin/received_page.h"

namespace pando::admin {

class RangeReaders {
 public:
  struct Options {
    Range range;
    Encoding encoding = Encoding::kText;  // of keys in messages
    RangeAggregates expected;             // in the range, as far as is known: it decides how the range is split
    ExportStyle style;
    ChunkPool* pool = nullptr;  // of the pieces; it must outlive the readers
    bool verify = true;         // REQUIRES: range.snapshot
    int32_t page_rows = 2000;
    uint64_t part_bytes = 16u << 20;  // of keys and values; 0: the range is one part
    uint64_t piece_bytes = 8u << 20;  // a part with more comes as several pieces
    // A piece also ends after this time, so that something comes from a slow server. 0: it does not.
    std::chrono::milliseconds piece_time = std::chrono::milliseconds(200);
    uint64_t buffer_bytes = 128u << 20;
    int64_t retry_ms = 60'000;  // a request that fails for a reason that passes is repeated for so long
    // If set: each thread calls it with the bytes of a page, and then pauses for so long. It also runs only while
    // nothing else wants its processor, if the system permits that.
    std::function<std::chrono::nanoseconds(uint64_t)> pace = {};
  };
  struct Piece {
    RowEncoder::Piece encoded;
    RangeAggregates sums;  // of the rows; the hash only if they are verified
    std::string next_key;  // everything below is read. Empty: no key follows, or none that a request can name
    bool over = false;     // nothing follows
  };

  // One thread for each target.
  RangeReaders(Options options, const std::vector<Target>& targets);
  ~RangeReaders();
  RangeReaders(const RangeReaders&) = delete;
  RangeReaders& operator=(const RangeReaders&) = delete;

  // The next piece, or nothing if none has come in this time. After an error, nothing more comes. kCorruption: the rows
  // after the last piece are not those that the store counts.
  Result<std::optional<Piece>> Next(std::chrono::milliseconds most);

 private:
  struct Part {
    uint64_t number = 0;  // in key order
    std::string start, end;
    RangeAggregates sums;  // without the hash
    bool last = false;
  };
  struct Item {
    Result<Piece> piece;
    bool part_over = false;
  };

  // Of one thread. Scans have their own, because the next page is asked for while the one before is encoded.
  struct Connections {
    explicit Connections(const Target& target) : client(target), scans(target) {}
    Client client, scans;
  };

  void Run(Connections* connections);
  Result<std::optional<Part>> TakePart(Client* client);
  Status SplitFirst(Client* client);
  Status ReadPart(Connections* connections, RowEncoder* encoder, const Part& part);
  void Deliver(uint64_t part, Item item);
  // False: the readers were stopped, or there was a signal.
  bool Pause(std::chrono::nanoseconds duration);
  // Repeats a call that fails for a reason that passes.
  template <typename Call>
  auto Patiently(Call&& call) -> decltype(call());
  template <typename Reply, typename Request>
  Result<Reply> Ask(Client* client, KvMethod<Reply, Request> method, const Request& request);

  const Options options_;
  std::vector<std::unique_ptr<Connections>> connections_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopped_ = false;

  std::mutex plan_mutex_;     // held while the next part is split
  std::deque<Part> pending_;  // in key order, without numbers
  uint64_t next_part_ = 0;

  std::mutex mutex_;
  std::condition_variable came_, room_;
  std::map<uint64_t, std::deque<Item>> items_;  // by part
  uint64_t wanted_part_ = 0;                    // which the caller gets now
  uint64_t buffered_bytes_ = 0;
};

}  // namespace pando::admin
