// Helpers for tests of the engine: a function that opens an engine on any reactor, small options
// that force splits, eviction, and recycling, and shortcuts for writes.
//
// Threads: that of the given reactor.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/engine/engine.h"
#include "src/io/sync.h"
#include "src/partition/store.h"
#include "src/verify/accept_log_loss.h"
#include "src/verify/check.h"

#define EXPECT_OK(expr)                                              \
  do {                                                               \
    const ::pando::Status& pando_expected_ = (expr);                 \
    EXPECT_TRUE(pando_expected_.ok()) << pando_expected_.ToString(); \
  } while (0)

namespace pando::engine_test {

struct Setup {
  // Its partitions are called directly, with stored keys, so that tests see keys as they are.
  StoreOptions store{.data_dir = "/data", .partitions = 2, .reactors = 1, .page_bytes = 4096, .namespaced = false};
  EngineOptions engine;
  Setup() {
    engine.memory_bytes = 4u << 20;
    engine.log_budget_bytes = 8u << 20;
    engine.log_segment_bytes = 4u << 20;
  }
};

// Creates the store if it does not exist, and opens the engine of its first reactor.
inline Task<Result<std::unique_ptr<Engine>>> OpenEngine(Reactor& reactor, Setup setup) {
  CO_ASSIGN_OR_RETURN(setup.engine.store, co_await OpenStore(reactor, setup.store));
  co_return co_await Engine::Open(reactor, setup.engine);
}

inline WriteOp PutOp(std::string key, std::string value) {
  WriteOp op;
  op.key = std::move(key);
  op.value = std::move(value);
  return op;
}
inline WriteOp RemoveOp(std::string key) {
  WriteOp op;
  op.op = RecordOp::kRemove;
  op.key = std::move(key);
  return op;
}
inline WriteOp IncrementOp(std::string key, int64_t delta) {
  WriteOp op;
  op.op = RecordOp::kIncrement;
  op.key = std::move(key);
  op.delta = delta;
  return op;
}

inline Task<Status> Write(Partition* partition, std::vector<WriteOp> ops) {
  Result<std::vector<OpResult>> results = co_await partition->Write(std::move(ops), WriteOptions());
  co_return results.ok() ? Status() : results.TakeStatus();
}
inline Task<Status> Put(Partition* partition, std::string key, std::string value) {
  std::vector<WriteOp> ops;
  ops.push_back(PutOp(std::move(key), std::move(value)));
  co_return co_await Write(partition, std::move(ops));
}
inline Task<Status> Remove(Partition* partition, std::string key) {
  std::vector<WriteOp> ops;
  ops.push_back(RemoveOp(std::move(key)));
  co_return co_await Write(partition, std::move(ops));
}

// A PointWrite that a coroutine waits for.
struct AwaitedWrite final : PointWrite {
  explicit AwaitedWrite(Reactor& reactor) : done(reactor) {}
  void OnDone() override {
    over = true;
    done.NotifyAll();
  }
  bool over = false;
  WaitQueue done;
};
// Writes one operation as kvnode does: as a PointWrite if that can be begun, otherwise with Write.
inline Task<Result<std::vector<OpResult>>> WritePoint(Engine* engine, Partition* partition, WriteOp op) {
  AwaitedWrite write(engine->reactor());
  write.partition = partition;
  write.op = std::move(op);
  PointWrite* const batch[] = {&write};
  engine->BatchWrite(batch);
  std::vector<OpResult> results;
  if (!write.begun) {
    std::vector<WriteOp> ops;
    ops.push_back(std::move(write.op));
    co_return co_await partition->Write(std::move(ops), WriteOptions());
  }
  while (!write.over) co_await write.done.Wait();
  CO_RETURN_IF_ERROR(write.status);
  results.push_back(std::move(write.result));
  co_return results;
}

// What `kvadmin accept-loss --log 0` does, with the code that it has shown.
inline Task<Status> AcceptLossOfLog(Reactor* reactor, std::string data_dir) {
  CO_ASSIGN_OR_RETURN(StoreInfo store, co_await LoadStore(*reactor, std::move(data_dir)));
  CO_ASSIGN_OR_RETURN(const LogLossReport report, co_await ExamineLogLoss(*reactor, std::move(store), 0));
  co_return co_await AcceptLogLoss(*reactor, &report, /*code=*/1);
}

// The page audit: returns the first problem that CheckStore finds, or "".
inline Task<std::string> Audit(Reactor& reactor, std::string data_dir) {
  Result<CheckReport> report = co_await CheckStore(reactor, data_dir);
  if (!report.ok()) co_return report.status().ToString();
  if (report->problems.empty()) co_return std::string();
  const CheckProblem& first = report->problems.front();
  co_return fmt::format("{} problems, first: {} at {}: {}", report->problems_total, first.file, first.offset_bytes,
                        first.what);
}

}  // namespace pando::engine_test
