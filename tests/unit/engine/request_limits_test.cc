// What a partition guarantees to callers with little memory or little time: room for values is
// reserved before they are copied, and a write that still waits can be withdrawn.
#include <gtest/gtest.h>

#include "src/partition/replica.h"
#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

class RequestLimits : public testing::Test {
 protected:
  template <typename Body>
  void Run(Body body) {
    SimKernel kernel(5);
    SimReactor* reactor = kernel.AddMachine()->Boot();
    ASSERT_TRUE(kernel.RunTask(*reactor, WithEngine(*reactor, body)));
  }

 private:
  template <typename Body>
  static Task<void> WithEngine(Reactor& reactor, Body body) {
    engine_test::Setup setup;
    setup.store.partitions = 1;
    auto engine = co_await OpenEngine(reactor, setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    co_await body(reactor, (*engine)->partition(0));
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  }
};

struct HardBytes {
  // Every page keeps to its hard limit, and together the pages contain all rows.
  static Task<void> Walk(Partition* p, size_t hard_bytes, bool reverse, size_t expected_rows) {
    ScanSpec spec;
    spec.reverse = reverse;
    size_t rows = 0, unread = 0;
    for (bool over = false; !over;) {
      spec.hard_bytes = hard_bytes;
      Result<ScanPage> page = co_await p->Scan(spec);
      EXPECT_OK(page.status());
      if (!page.ok()) co_return;
      size_t bytes = 0;
      for (const ScanRow& row : page->rows) bytes += row.bytes();
      // A key is returned whatever the limit.
      const bool alone = page->rows.size() == 1 && page->rows[0].value.empty();
      EXPECT_TRUE(bytes <= hard_bytes || alone) << bytes;
      EXPECT_FALSE(page->rows.empty() && !page->exhausted);
      for (const ScanRow& row : page->rows) {
        unread += row.unread_bytes > 0;
        EXPECT_TRUE(row.unread_bytes == 0 || page->rows.size() == 1) << "a row without its value must be the only row";
        EXPECT_TRUE(row.unread_bytes == 0 || row.bytes() + row.unread_bytes > hard_bytes);
      }
      rows += page->rows.size();
      over = page->exhausted;
      if (over) break;
      if (reverse) {
        spec.end = page->rows.back().key;
      } else {
        spec.start = page->rows.back().key;
        spec.start_exclusive = true;
      }
    }
    EXPECT_EQ(rows, expected_rows);
    EXPECT_GT(unread, 0u);
  }
  Task<void> operator()(Reactor&, Partition* p) {
    for (int i = 0; i < 60; ++i) {
      const size_t bytes = i % 3 == 0 ? 100'000 : i % 3 == 1 ? 500 : 0;
      EXPECT_OK(co_await Put(p, fmt::format("k{:02}", i), std::string(bytes, 'v')));
    }
    for (bool reverse : {false, true}) {
      co_await Walk(p, 1000, reverse, 60);
      co_await Walk(p, 50'000, reverse, 60);
      co_await Walk(p, 0, reverse, 60);
    }
  }
};

TEST_F(RequestLimits, ScansKeepToTheirHardLimit) { Run(HardBytes()); }

struct Values {
  Task<void> operator()(Reactor&, Partition* p) {
    EXPECT_OK(co_await Put(p, "small", std::string(1000, 's')));
    EXPECT_OK(co_await Put(p, "large", std::string(100'000, 'l')));
    MemoryBudget budget(150'000);
    ValueRoom room(&budget, 50'000);
    Result<ReadResult> got = co_await p->Get("small", 0, &room);
    EXPECT_TRUE(got.ok() && got->value.size() == 1000);
    EXPECT_EQ(budget.used_bytes(), 2000);
    got = co_await p->Get("large", 0, &room);
    EXPECT_EQ(got.code(), Code::kOverloaded) << "the value is larger than the reply's limit";
    ValueRoom wide(&budget, 1u << 20);
    got = co_await p->Get("large", 0, &wide);
    EXPECT_EQ(got.code(), Code::kOverloaded) << "the value is larger than the node's memory";
    EXPECT_EQ(wide.taken_bytes(), 0u);

    WriteControl control;
    control.values = &wide;
    WriteOptions options;
    options.control = &control;
    std::vector<WriteOp> ops;
    for (const char* key : {"large", "small"}) {
      WriteOp op = PutOp(key, "new");
      op.condition.exists = false;
      ops.push_back(std::move(op));
    }
    Result<std::vector<OpResult>> results = co_await p->Write(std::move(ops), options);
    EXPECT_OK(results.status());
    if (!results.ok()) co_return;
    EXPECT_EQ((*results)[0].outcome, OpOutcome::kConditionFailed);
    EXPECT_TRUE((*results)[0].value_omitted && (*results)[0].current.found);
    EXPECT_TRUE((*results)[0].current.value.empty());
    EXPECT_FALSE((*results)[1].value_omitted);
    EXPECT_EQ((*results)[1].current.value.size(), 1000u);
    EXPECT_EQ(wide.taken_bytes(), 1000u);

    // The same for previous values. If there is no room for one, the write is still applied and the
    // value is marked as omitted.
    WriteControl removal;
    removal.values = &wide;
    options.control = &removal;
    ops.clear();
    for (const char* key : {"large", "small"}) {
      ops.push_back(RemoveOp(key));
      ops.back().return_previous = true;
    }
    results = co_await p->Write(std::move(ops), options);
    EXPECT_OK(results.status());
    if (!results.ok()) co_return;
    EXPECT_EQ((*results)[0].outcome, OpOutcome::kApplied);
    EXPECT_TRUE((*results)[0].value_omitted && (*results)[0].current.found);
    EXPECT_TRUE((*results)[0].current.value.empty());
    EXPECT_FALSE((*results)[1].value_omitted);
    EXPECT_EQ((*results)[1].current.value.size(), 1000u);
    EXPECT_EQ(wide.taken_bytes(), 2000u);
  }
};

TEST_F(RequestLimits, ValuesAreTakenFromTheRoomBeforeTheyAreCopied) { Run(Values()); }

struct Withdrawn {
  static Task<void> WriteOne(Partition* p, std::string key, WriteControl* control, Code* code) {
    std::vector<WriteOp> ops;
    ops.push_back(PutOp(std::move(key), "v"));
    WriteOptions options;
    options.control = control;
    Result<std::vector<OpResult>> results = co_await p->Write(std::move(ops), options);
    *code = results.code();
  }
  Task<void> operator()(Reactor& reactor, Partition* p) {
    EXPECT_OK(co_await p->PrepareCut());
    EXPECT_OK((co_await p->HoldWrites()).status());
    WriteControl withdrawn, late, patient;
    late.deadline_ns = reactor.NowNs() + kSecond;
    patient.deadline_ns = reactor.NowNs() + 100 * kSecond;
    Code codes[3] = {};
    TaskGroup writes;
    writes.Spawn(WriteOne(p, "withdrawn", &withdrawn, &codes[0]));
    writes.Spawn(WriteOne(p, "late", &late, &codes[1]));
    writes.Spawn(WriteOne(p, "patient", &patient, &codes[2]));
    co_await Sleep(reactor, 2 * kSecond);
    EXPECT_TRUE(withdrawn.Withdraw());
    EXPECT_OK(co_await p->AbandonCut());
    co_await writes.Drain();
    EXPECT_EQ(codes[0], Code::kDeadline);
    EXPECT_EQ(codes[1], Code::kDeadline);
    EXPECT_EQ(codes[2], Code::kOk);
    EXPECT_TRUE(late.Withdraw()) << "Withdraw must report that the write did not take effect";
    EXPECT_FALSE(patient.Withdraw()) << "a write in the log cannot be withdrawn";
    for (const char* key : {"withdrawn", "late", "patient"}) {
      Result<ReadResult> got = co_await p->Get(key, kNewest, nullptr);
      EXPECT_TRUE(got.ok());
      EXPECT_EQ(got->found, std::string_view(key) == "patient") << key;
    }
  }
};

// P7: a write that was withdrawn has no effect, and one that was appended cannot be withdrawn.
TEST_F(RequestLimits, AWriteThatWaitsIsWithdrawn) { Run(Withdrawn()); }

// The batch would not fit later either, so the error is not an overload, which invites a retry.
struct TooMany {
  Task<void> operator()(Reactor&, Partition* p) {
    std::vector<WriteOp> ops;
    for (int i = 0; i < 1024; ++i) ops.push_back(PutOp(fmt::format("k{}", i), "v"));
    Result<std::vector<OpResult>> results = co_await p->Write(std::move(ops), WriteOptions());
    EXPECT_EQ(results.code(), Code::kInvalidArgument);
  }
};

TEST_F(RequestLimits, ABatchThatNeverFitsIsNotToBeTriedAgain) { Run(TooMany()); }

// A batch whose leaves a checkpoint has not written yet clones them and all pages above them. In a
// tree in which each inner page has two children, that is more than the pool can free.
struct TallTree {
  static constexpr size_t kPairs = 1024, kOps = 35;
  SimKernel kernel{5};
  SimMachine* machine = kernel.AddMachine();
  engine_test::Setup setup;

  // Two keys with the same number differ only in the last bytes. Keys with different numbers differ
  // in the first ones.
  static std::string Key(size_t number, char end) {
    std::string key = fmt::format("{:05}", number);
    key.resize(939, 'p');
    key.resize(MaxKeyBytes(4096), end);
    return key;
  }
  // Stored in this order, each leaf is split between the two keys of a pair, so that all separators
  // are long and differ early.
  static Task<void> Build(Partition* p) {
    for (const char end : {'a', 'b', 'c', 'd'}) EXPECT_OK(co_await Put(p, Key(0, end), "v"));
    EXPECT_OK(co_await Remove(p, Key(0, 'd')));
    for (size_t number = 1; number <= kPairs; ++number) {
      for (const char end : {'a', 'b'}) EXPECT_OK(co_await Put(p, Key(number, end), "v"));
    }
  }
  static Task<Status> WriteFar(Partition* p, std::string value) {
    std::vector<WriteOp> ops;
    for (size_t i = 0; i < kOps; ++i) ops.push_back(PutOp(Key(1 + i * kPairs / kOps, 'a'), value));
    co_return co_await Write(p, std::move(ops));
  }
  static size_t FramesToClone(Partition* p) {
    Tree& tree = static_cast<Replica*>(p)->tree();
    std::vector<Frame*> leaves;
    ChildRef missing;
    uint8_t level = 0;
    for (size_t i = 0; i < kOps; ++i) {
      leaves.push_back(tree.FindLeaf(Key(1 + i * kPairs / kOps, 'a'), &missing, &level));
      EXPECT_NE(leaves.back(), nullptr);
    }
    return tree.ClonesNeeded(leaves);
  }
  static Task<void> Run(TallTree* t, Reactor* reactor) {
    t->setup.store.partitions = 1;
    t->setup.engine.checkpoint_interval_ns = kSecond;
    auto engine = co_await OpenEngine(*reactor, t->setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    Partition* p = (*engine)->partition(0);
    co_await Build(p);
    EXPECT_OK(co_await p->Checkpoint());
    EXPECT_OK(co_await WriteFar(p, "1"));
    // The disk is full for the checkpoint, so the pages stay frozen and dirty for a while.
    t->machine->AddFault({.kind = IoOp::Kind::kWrite,
                          .path_contains = "/partition-00000/data",
                          .count = UINT64_MAX,
                          .error_number = ENOSPC});
    EXPECT_EQ((co_await p->Checkpoint()).code(), Code::kDiskFull);
    const size_t pool = (*engine)->stats().pool_pages;
    EXPECT_GT(FramesToClone(p), pool / 4) << "the batch would fit: the test needs a taller tree";
    TaskGroup write;
    Status status = Error(Code::kAborted, "not written");
    write.Spawn([](Partition* to, Status* result) -> Task<void> { *result = co_await WriteFar(to, "2"); }(p, &status));
    co_await Sleep(*reactor, 2 * kSecond);
    EXPECT_EQ(status.code(), Code::kAborted) << "the write needs the checkpoint";
    EXPECT_OK((*engine)->failure());
    t->machine->ClearFaults();
    co_await write.Drain();
    EXPECT_OK(status);
    Result<ReadResult> got = co_await p->Get(Key(1, 'a'), kNewest, nullptr);
    EXPECT_TRUE(got.ok() && got->value == "2");
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  }
};

TEST(TallTrees, ABatchWaitsUntilItsPagesNeedNoClones) {
  TallTree tall;
  SimReactor* reactor = tall.machine->Boot();
  EXPECT_TRUE(tall.kernel.RunTask(*reactor, TallTree::Run(&tall, reactor)));
}

// A log that was written with much memory is replayed with little.
struct LargeValue {
  static Task<void> Store(Reactor* reactor, engine_test::Setup setup) {
    auto engine = co_await OpenEngine(*reactor, setup);
    EXPECT_OK(engine.status());
    if (!engine.ok()) co_return;
    EXPECT_OK(co_await Put((*engine)->partition(0), "k", std::string(kMaxValueBytes, 'v')));
    EXPECT_OK(co_await (*engine)->Close(/*checkpoint=*/false));
  }
  static Task<void> OpenSmall(Reactor* reactor, engine_test::Setup setup) {
    auto engine = co_await OpenEngine(*reactor, setup);
    EXPECT_EQ(engine.code(), Code::kInvalidArgument) << engine.status().ToString();
    EXPECT_NE(engine.status().message().find("--memory_limit_mb"), std::string::npos) << engine.status().ToString();
  }
};

TEST(SmallPools, AValueThatDoesNotFitIsRefusedInReplay) {
  SimKernel kernel(5);
  SimMachine* machine = kernel.AddMachine();
  engine_test::Setup setup;
  setup.store.partitions = 1;
  setup.engine.memory_bytes = 16u << 20;
  SimReactor* reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, LargeValue::Store(reactor, setup)));
  machine->ProcessCrash(1);
  engine_test::Setup small = setup;
  small.engine.memory_bytes = BufferPool::MinMemoryBytes(4096, BufferPoolOptions().write_buffers) / 3 * 4 + (64u << 10);
  reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, LargeValue::OpenSmall(reactor, small)));
  machine->ProcessCrash(1);
  reactor = machine->Boot();
  EXPECT_TRUE(kernel.RunTask(*reactor, LargeValue::Store(reactor, setup))) << "nothing is lost";
}

// The pages of this store have 4 KiB, and take keys of a quarter of that.
struct LongKeys {
  static Task<void> ExpectRefused(Partition* p, WriteOp op) {
    std::vector<WriteOp> ops;
    ops.push_back(std::move(op));
    auto outcome = co_await p->Write(std::move(ops), WriteOptions());
    EXPECT_EQ(outcome.code(), Code::kInvalidArgument) << outcome.status().ToString();
    EXPECT_NE(outcome.status().message().find("1029 bytes"), std::string::npos) << outcome.status().ToString();
  }
  Task<void> operator()(Reactor&, Partition* p) {
    const std::string longest(1028, 'k'), longer(1029, 'k');
    EXPECT_OK(co_await Put(p, longest, "v"));
    co_await ExpectRefused(p, PutOp(longer, "v"));
    co_await ExpectRefused(p, RemoveOp(longer));
    co_await ExpectRefused(p, IncrementOp(longer, 1));
    auto read = co_await p->Get(longer, kNewest, nullptr);
    EXPECT_TRUE(read.ok() && !read->found);
    read = co_await p->Get(longest, kNewest, nullptr);
    EXPECT_TRUE(read.ok() && read->found);
  }
};

TEST_F(RequestLimits, KeysThatArePossibleElsewhereAreRefused) { Run(LongKeys()); }

}  // namespace
}  // namespace pando::engine_test
