#include "tools/kvadmin/range_readers.h"

#include <sched.h>

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "tools/common/interrupts.h"
#include "tools/kvadmin/patience.h"
#include "tools/kvadmin/verified_rows.h"

namespace pando::admin {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxSplit = 256;  // of splitRange

// The caller runs only while nothing else wants its processor: servers, or clients of theirs, on the same machine would
// else wait for a page to be decoded and encoded. If the system refuses, the pace still keeps their requests fast.
void YieldProcessorToOthers() {
  const sched_param none{};
  (void)::sched_setscheduler(0, SCHED_IDLE, &none);
}

uint64_t MemoryOf(const Result<RangeReaders::Piece>& piece) {
  if (!piece.ok()) return 0;
  uint64_t bytes = 0;
  for (const FileChunk& chunk : piece->encoded.chunks) bytes += chunk.buffer.capacity();
  return bytes;
}

}  // namespace

RangeReaders::RangeReaders(Options options, const std::vector<Target>& targets) : options_(std::move(options)) {
  CHECK(!options_.verify || !options_.range.snapshot.empty());
  pending_.push_back({0, options_.range.start, options_.range.end, options_.expected, false});
  for (const Target& target : targets) connections_.push_back(std::make_unique<Connections>(target));
  try {
    for (auto& both : connections_) threads_.emplace_back([this, both = both.get()] { Run(both); });
  } catch (const std::system_error& e) {
    // Those that have started do the work of all.
    if (threads_.empty()) items_[0].push_back({Error(Code::kIoError, "cannot start a thread: {}", e.what()), true});
  }
}

RangeReaders::~RangeReaders() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  room_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Result<std::optional<RangeReaders::Piece>> RangeReaders::Next(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  const auto there = [this] { return !items_[wanted_part_].empty(); };
  if (!came_.wait_for(lock, most, there)) return std::optional<Piece>();
  std::deque<Item>& items = items_[wanted_part_];
  Item item = std::move(items.front());
  items.pop_front();
  if (item.part_over) {
    items_.erase(wanted_part_);
    ++wanted_part_;
  }
  RETURN_IF_ERROR(item.piece.status());
  buffered_bytes_ -= MemoryOf(item.piece);
  room_.notify_all();
  return std::optional<Piece>(*std::move(item.piece));
}

void RangeReaders::Deliver(uint64_t part, Item item) {
  const uint64_t bytes = MemoryOf(item.piece);
  std::unique_lock lock(mutex_);
  // The caller gets a piece of the part that it wants next, even if pieces of later parts have taken all room.
  room_.wait(lock, [&] {
    const bool next = part == wanted_part_ && items_[part].empty();
    return stopped_ || next || buffered_bytes_ + bytes <= options_.buffer_bytes;
  });
  buffered_bytes_ += bytes;
  items_[part].push_back(std::move(item));
  came_.notify_one();
}

bool RangeReaders::Pause(std::chrono::nanoseconds duration) {
  constexpr int64_t kLookEveryMs = 50;  // whether the readers were stopped
  const Clock::time_point end = Clock::now() + duration;
  while (!stopped_) {
    const int64_t left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left_ms <= 0) return true;
    if (!tools::Interrupts::Sleep(std::min(left_ms, kLookEveryMs))) break;
  }
  return false;
}

void RangeReaders::Run(Connections* connections) {
  if (options_.pace) YieldProcessorToOthers();
  const std::unique_ptr<RowEncoder> encoder = MakeRowEncoder(options_.style, options_.pool);
  while (!stopped_) {
    std::optional<uint64_t> number;
    Status status;
    try {
      Result<std::optional<Part>> part = TakePart(&connections->client);
      if (part.ok() && !*part) return;
      status = part.status();
      if (part.ok()) {
        number = (*part)->number;
        status = ReadPart(connections, encoder.get(), **part);
      }
    } catch (const std::bad_alloc&) {
      status = Error(Code::kIoError, "out of memory; read less at a time, with a smaller --parallel or --page-rows");
    } catch (const std::exception& e) {
      status = Error(Code::kIoError, "{}", e.what());
    }
    if (status.ok()) continue;
    if (!number) {  // what would have been the next part
      std::lock_guard lock(plan_mutex_);
      number = next_part_++;
      pending_.clear();
    }
    Deliver(*number, {std::move(status), true});
    return;
  }
}

template <typename Call>
auto RangeReaders::Patiently(Call&& call) -> decltype(call()) {
  return Patience(options_.retry_ms)([&]() -> decltype(call()) {
    if (stopped_) return Error(Code::kAborted, "the export has ended");
    return call();
  });
}

template <typename Reply, typename Request>
Result<Reply> RangeReaders::Ask(Client* client, KvMethod<Reply, Request> method, const Request& request) {
  return Patiently([&]() -> Result<Reply> { return client->Call(Client::Repeat::kSafe, method, request); });
}

// Splits the first part of pending_ if it is too large. It stays if it cannot be split. A part that is hardly smaller
// than the whole is not split again, so this ends whatever a server says.
Status RangeReaders::SplitFirst(Client* client) {
  const Part whole = pending_.front();
  api::SplitRangeRequest request;
  SetRange(options_.range, &request);
  request.start_key = whole.start;
  request.end_key = whole.end;
  const uint64_t parts = (whole.sums.bytes + options_.part_bytes - 1) / options_.part_bytes;
  request.parts = static_cast<int32_t>(std::clamp<uint64_t>(parts, 2, std::min(kMaxSplit, whole.sums.count)));
  ASSIGN_OR_RETURN(const api::SplitRangeReply reply, Ask(client, &api::KvIf::splitRange, request));
  if (reply.parts.size() < 2) {
    pending_.front().sums.count = 1;
    return Status();
  }
  if (reply.parts.size() > static_cast<size_t>(request.parts)) {
    return Error(Code::kCorruption, "the server at {} has split a range into {} parts, and was asked for {}; report it",
                 client->at(), reply.parts.size(), request.parts);
  }
  pending_.pop_front();
  for (size_t i = reply.parts.size(); i-- > 0;) {
    const api::RangePart& part = reply.parts[i];
    RangeAggregates sums{static_cast<uint64_t>(part.count), static_cast<uint64_t>(part.bytes), 0};
    if (sums.bytes > whole.sums.bytes - whole.sums.bytes / 8) sums.count = 1;
    // The first and the last begin and end where this one does, whatever the reply has there.
    pending_.push_front({0, i == 0 ? whole.start : part.start_key,
                         i + 1 == reply.parts.size() ? whole.end : part.end_key, sums, false});
  }
  return Status();
}

Result<std::optional<RangeReaders::Part>> RangeReaders::TakePart(Client* client) {
  std::lock_guard lock(plan_mutex_);
  if (pending_.empty()) return std::optional<Part>();
  const auto too_large = [this] {
    const RangeAggregates& sums = pending_.front().sums;
    return options_.part_bytes > 0 && sums.count > 1 && sums.bytes > options_.part_bytes + options_.part_bytes / 2;
  };
  while (too_large()) RETURN_IF_ERROR(SplitFirst(client));
  Part part = std::move(pending_.front());
  pending_.pop_front();
  part.number = next_part_++;
  part.last = pending_.empty();
  return std::optional<Part>(std::move(part));
}

Status RangeReaders::ReadPart(Connections* connections, RowEncoder* encoder, const Part& part) {
  Range range = options_.range;
  range.start = part.start;
  range.end = part.end;
  std::optional<VerifiedRows> sums;
  if (options_.verify) {
    auto ask = [this, client = &connections->client](const api::AggregateRequest& request) {
      return Ask(client, &api::KvIf::aggregate, request);
    };
    sums.emplace(range, /*reverse=*/false, options_.encoding, std::move(ask));
  }
  api::ScanRequest request;
  SetRange(range, &request);
  request.limit_rows = options_.page_rows;
  Piece piece;
  uint64_t hash_before = 0;
  std::string last_key;
  ReceivedPage page;
  Clock::time_point begun = Clock::now();
  while (!stopped_) {
    RETURN_IF_ERROR(Patiently([&]() -> Status { return connections->scans.Scan(request, &page); }));
    request.cursor = page.cursor;
    if (!options_.pace && !page.cursor.empty()) connections->scans.ScanAhead(request);
    RETURN_IF_ERROR(CheckOrder(page.rows, range, last_key, options_.encoding));
    encoder->Add(page.rows);
    if (sums) sums->Add(page.rows);
    const uint64_t bytes_before = piece.sums.bytes;
    for (const RowView& row : page.rows) piece.sums.Add({1, row.bytes(), 0});
    if (options_.pace) {
      // Asks again after each pause: a longer one may have begun meanwhile.
      auto left = options_.pace(piece.sums.bytes - bytes_before);
      while (left.count() > 0 && Pause(left)) left = options_.pace(0);
    }
    if (!page.rows.empty()) last_key = page.rows.back().key;
    const bool over = page.cursor.empty();
    const bool late = options_.piece_time.count() > 0 && Clock::now() - begun >= options_.piece_time;
    const bool full = piece.sums.bytes >= options_.piece_bytes || late;
    if (!over && !(full && piece.sums.count > 0)) continue;
    if (sums) {
      RETURN_IF_ERROR(sums->Check(over));
      piece.sums.content_hash =
          sums->verified().content_hash - std::exchange(hash_before, sums->verified().content_hash);
    }
    piece.encoded = encoder->Take();
    piece.next_key = over ? part.end : KeyAfter(last_key);
    piece.over = over && part.last;
    Deliver(part.number, {std::move(piece), over});
    if (over) break;
    piece = Piece();
    begun = Clock::now();
  }
  return Status();
}

}  // namespace pando::admin
