#include "tools/kvbench/engines/blocking_engine.h"

#include <sys/prctl.h>

#include <functional>
#include <latch>
#include <mutex>
#include <thread>

namespace pando::bench {

namespace {

void WaitUntil(int64_t due_ns) {
  timespec t{};
  t.tv_sec = due_ns / 1'000'000'000;
  t.tv_nsec = due_ns % 1'000'000'000;
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

// Runs each `client(i)` on its own thread and returns the first error. Calls `stop` on an error, so
// that the other clients end too.
Status OnThreads(uint32_t count, const std::function<Status(uint32_t)>& client, const std::function<void()>& stop) {
  std::mutex mutex;
  Status first;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
      Status status = client(i);
      if (status.ok()) return;
      stop();
      std::lock_guard lock(mutex);
      if (first.ok()) first = std::move(status);
    });
  }
  for (std::thread& t : threads) t.join();
  return first;
}

// Runs the operations of one client.
class Client {
 public:
  Client(OpSource* source, uint32_t index, Session* session, DriveTally* tally)
      : ops_(source, index),
        session_(*session),
        tally_(*tally),
        open_loop_(source->open_loop()),
        key_bytes_(source->spec().shape.key_bytes) {}

  Status Run() {
    // The end of one operation is the start of the next, so the clock is read once per operation.
    int64_t now_ns = MonotonicNs();
    while (const DrawnOp* op = ops_.Draw(now_ns)) {
      if (open_loop_ && op->from_ns > MonotonicNs()) WaitUntil(op->from_ns);
      RETURN_IF_ERROR(Do(*op));
      now_ns = MonotonicNs();
      tally_.Done(op->from_ns, now_ns);
    }
    return Status();
  }

 private:
  Status Do(const DrawnOp& op) {
    switch (op.kind) {
      case OpKind::kGet: return Get(op);
      case OpKind::kPut: return Put(op);
      case OpKind::kReadModifyWrite: {
        RETURN_IF_ERROR(Get(op));
        return Put(op);
      }
      case OpKind::kScan: {
        ASSIGN_OR_RETURN(uint32_t rows, session_.Scan(op.key, op.rows, &bytes_));
        return ops_.CheckRows(rows, LastKey(rows), &tally_);
      }
    }
    return Status();
  }
  // Of the rows in bytes_, which all have the same shape.
  std::string_view LastKey(uint32_t rows) const {
    if (rows == 0) return {};
    const size_t row_bytes = bytes_.size() / rows;
    return std::string_view(bytes_).substr(bytes_.size() - row_bytes, key_bytes_);
  }
  Status Get(const DrawnOp& op) {
    ASSIGN_OR_RETURN(bool found, session_.Get(op.key, &bytes_));
    return ops_.CheckFound(found, bytes_, &tally_);
  }
  Status Put(const DrawnOp& op) {
    std::string_view value = ops_.NewValue();
    RETURN_IF_ERROR(session_.Put(op.key, value));
    tally_.user_bytes_written += op.key.size() + value.size();
    tally_.inserts += op.insert ? 1 : 0;
    return Status();
  }

  OpClient ops_;
  Session& session_;
  DriveTally& tally_;
  const bool open_loop_;
  const size_t key_bytes_;
  std::string bytes_;
};

}  // namespace

Status BlockingEngine::Load(const LoadSpec& spec, DriveTally* tally) {
  LoadSource source(spec);
  std::mutex mutex;
  const int64_t begin_ns = MonotonicNs();
  tally->begin_ns = begin_ns;
  auto client = [&](uint32_t) -> Status {
    ASSIGN_OR_RETURN(std::unique_ptr<Session> session, NewSession());
    auto own = std::make_unique<DriveTally>(begin_ns);
    LoadSource::Batch batch;
    for (int64_t from_ns = MonotonicNs(); source.Next(&batch); from_ns = MonotonicNs()) {
      RETURN_IF_ERROR(session->PutBatch(batch));
      own->Done(from_ns, MonotonicNs());
      own->rows += batch.count;
      own->user_bytes_written += batch.bytes;
    }
    std::lock_guard lock(mutex);
    tally->Merge(*own);
    return Status();
  };
  RETURN_IF_ERROR(OnThreads(spec.batches_in_flight, client, [&] { source.Stop(); }));
  tally->ops = tally->rows;
  tally->seconds = static_cast<double>(MonotonicNs() - begin_ns) * 1e-9;
  return Status();
}

Status BlockingEngine::Run(const DriveSpec& spec, DriveTally* tally) {
  // Threads and sessions are created before the clock starts.
  constexpr int64_t kStartDelayNs = 20'000'000;
  std::mutex mutex;
  OpSource source(spec);
  std::latch ready(spec.clients + 1), go(1);
  auto client = [&](uint32_t index) -> Status {
    Result<std::unique_ptr<Session>> session = NewSession();
    ready.count_down();
    go.wait();
    if (!session.ok()) return session.TakeStatus();
    auto own = std::make_unique<DriveTally>(source.begin_ns());
    Client one(&source, index, session->get(), own.get());
    WaitUntil(source.begin_ns());
    RETURN_IF_ERROR(one.Run());
    std::lock_guard lock(mutex);
    tally->Merge(*own);
    return Status();
  };
  std::thread starter([&] {
    ready.arrive_and_wait();
    source.Start(MonotonicNs() + kStartDelayNs);
    go.count_down();
  });
  Status status = OnThreads(spec.clients, client, [&] { source.Stop(); });
  starter.join();
  RETURN_IF_ERROR(status);
  tally->begin_ns = source.begin_ns();
  tally->seconds = static_cast<double>(MonotonicNs() - source.begin_ns()) * 1e-9;
  return Status();
}

}  // namespace pando::bench
