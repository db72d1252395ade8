// A store whose directory is moved while it is open and whose path is taken by another store, and a
// store whose lock file is removed. The old process keeps using its own files, or stops. It never
// changes the other store's files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/engine_harness.h"
#include "tests/support/sim_kernel.h"

namespace pando::engine_test {
namespace {

using testing::HasSubstr;

class MovedStoreTest : public testing::Test {
 public:
  MovedStoreTest() {
    FLAGS_minloglevel = 3;
    setup_.store.partitions = 1;
    setup_.engine.log_segment_bytes = 64u << 10;
    setup_.engine.log_budget_bytes = 512u << 10;
    setup_.engine.on_failure = [this](const Status& status) { failure_ = status; };
  }
  SimDisk& disk() { return machine_->disk(); }
  // The paths and contents of all files below a directory.
  std::map<std::string, std::string> Contents(const std::string& directory) {
    std::map<std::string, std::string> files;
    for (const std::string& path : disk().AllFiles()) {
      if (path.starts_with(directory + "/")) files[path] = disk().ReadAll(path);
    }
    return files;
  }
  void Run(Task<void> task) {
    reactor_ = machine_->Boot(2);
    EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task)));
  }

  engine_test::Setup setup_;
  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = nullptr;
  Status failure_;
};

std::string Key(int i) { return fmt::format("key-{:05}", i); }

// Locks and opens the store, as a node does.
Task<Result<std::unique_ptr<Engine>>> OpenLocked(Reactor* reactor, Setup setup, File* lock) {
  CO_ASSIGN_OR_RETURN(*lock, co_await LockStore(*reactor, setup.store.data_dir));
  CO_ASSIGN_OR_RETURN(setup.engine.lock, lock->Identity());
  co_return co_await OpenEngine(*reactor, setup);
}

Task<void> WriteMany(Engine* engine, int from, int to) {
  for (int i = from; i < to; ++i) {
    Status status = co_await Put(engine->partition(0), Key(i), std::string(3000, 'a'));
    EXPECT_OK(status);
    if (!status.ok()) co_return;
    // Releases segments, which are then recycled.
    if (i % 40 == 39) EXPECT_OK(co_await engine->CheckpointAll());
  }
}

Task<void> ExpectThere(Engine* engine, int from, int to, int beyond) {
  for (int i = from; i < beyond; ++i) {
    Result<ReadResult> got = co_await engine->partition(0)->Get(Key(i), kNewest, nullptr);
    EXPECT_OK(got.status());
    if (!got.ok()) continue;
    EXPECT_EQ(got->found, i < to) << Key(i);
  }
}

Task<void> MovedBody(MovedStoreTest* t) {
  File lock, other_lock;
  auto old_store = co_await OpenLocked(t->reactor_, t->setup_, &lock);
  EXPECT_OK(old_store.status());
  if (!old_store.ok()) co_return;
  co_await WriteMany(old_store->get(), 0, 100);
  t->disk().MoveDirectory("/data", "/data.old");

  // Another process, which has its own store at the path.
  Reactor* other_reactor = t->machine_->reactor(1);
  auto other = co_await OpenLocked(other_reactor, t->setup_, &other_lock);
  EXPECT_OK(other.status());
  if (!other.ok()) co_return;
  co_await WriteMany(other->get(), 1000, 1100);
  // So that nothing else changes its files.
  EXPECT_OK(co_await (*other)->Close(/*checkpoint=*/false));
  const auto before = t->Contents("/data");

  co_await WriteMany(old_store->get(), 100, 400);  // 1.2 MB, so every log segment is recycled
  EXPECT_OK((*old_store)->failure());
  EXPECT_TRUE(t->Contents("/data") == before) << "the old process changed the other store's files";
  (*old_store)->scrubber().StartPass(1u << 30);
  while ((*old_store)->scrubber().report().passes_finished == 0) co_await Sleep(*t->reactor_, kMillisecond);
  EXPECT_TRUE((*old_store)->scrubber().report().findings.empty()) << "the scrubber read the other store's files";
  EXPECT_OK(co_await (*old_store)->Close(/*checkpoint=*/false));
  EXPECT_OK(co_await lock.Close());
  EXPECT_TRUE(t->Contents("/data") == before);
  EXPECT_OK(co_await other_lock.Close());
}

Task<void> BothAreWhole(MovedStoreTest* t) {
  EXPECT_EQ(co_await Audit(*t->reactor_, "/data"), "");
  EXPECT_EQ(co_await Audit(*t->reactor_, "/data.old"), "");
  Setup setup = t->setup_;
  auto other = co_await OpenEngine(*t->reactor_, setup);
  EXPECT_OK(other.status());
  if (!other.ok()) co_return;
  co_await ExpectThere(other->get(), 1000, 1100, 1110);
  co_await ExpectThere(other->get(), 0, 0, 10);
  EXPECT_OK(co_await (*other)->Close(/*checkpoint=*/true));
  setup.store.data_dir = "/data.old";
  auto old_store = co_await OpenEngine(*t->machine_->reactor(1), setup);
  EXPECT_OK(old_store.status());
  if (!old_store.ok()) co_return;
  co_await ExpectThere(old_store->get(), 0, 400, 410);
  EXPECT_OK(co_await (*old_store)->Close(/*checkpoint=*/true));
}

TEST_F(MovedStoreTest, TheOldProcessStaysInItsOwnFiles) {
  Run(MovedBody(this));
  machine_->ProcessCrash(1);
  Run(BothAreWhole(this));
}

enum class LockFault { kRemoved, kReplaced };

Task<void> LockBody(MovedStoreTest* t, LockFault fault) {
  File lock;
  auto engine = co_await OpenLocked(t->reactor_, t->setup_, &lock);
  EXPECT_OK(engine.status());
  if (!engine.ok()) co_return;
  co_await WriteMany(engine->get(), 0, 100);
  t->disk().RemoveTree("/data/lock");
  if (fault == LockFault::kReplaced) t->disk().WriteAll("/data/lock", "");
  for (int i = 0; i < 200 && t->failure_.ok(); ++i) co_await Sleep(*t->reactor_, 10 * kMillisecond);
  const auto before = t->Contents("/data");
  EXPECT_EQ(t->failure_.code(), Code::kLocked) << t->failure_.ToString();
  EXPECT_THAT(std::string(t->failure_.message()), HasSubstr("/data"));
  Status refused = co_await Put((*engine)->partition(0), "after", "all");
  EXPECT_EQ(refused.code(), Code::kUnavailable) << refused.ToString();
  co_await Sleep(*t->reactor_, 2 * kSecond);
  EXPECT_TRUE(t->Contents("/data") == before);
  Status closed = co_await (*engine)->Close(/*checkpoint=*/true);
  EXPECT_FALSE(closed.ok());
  EXPECT_TRUE(t->Contents("/data") == before) << "Close wrote to files that may belong to another process";
  EXPECT_OK(co_await lock.Close());
}

TEST_F(MovedStoreTest, WithoutItsLockFileTheProcessStops) { Run(LockBody(this, LockFault::kRemoved)); }
TEST_F(MovedStoreTest, WithAnotherLockFileTheProcessStops) { Run(LockBody(this, LockFault::kReplaced)); }

// Another store took over the path after the lock was taken and before the engine was opened.
Task<void> TooEarlyBody(MovedStoreTest* t) {
  File lock;
  Result<File> locked = co_await LockStore(*t->reactor_, "/data");
  EXPECT_OK(locked.status());
  lock = *std::move(locked);
  Setup setup = t->setup_;
  Result<FileIdentity> identity = lock.Identity();
  EXPECT_OK(identity.status());
  setup.engine.lock = *identity;
  Result<StoreInfo> info = co_await OpenStore(*t->reactor_, setup.store);
  EXPECT_OK(info.status());
  t->disk().MoveDirectory("/data", "/data.old");
  File other_lock;
  auto other = co_await OpenLocked(t->machine_->reactor(1), t->setup_, &other_lock);
  EXPECT_OK(other.status());
  EXPECT_OK(co_await (*other)->Close(/*checkpoint=*/true));
  const auto before = t->Contents("/data");
  setup.engine.store = *info;
  auto engine = co_await Engine::Open(*t->reactor_, setup.engine);
  EXPECT_EQ(engine.code(), Code::kLocked) << engine.status().ToString();
  EXPECT_TRUE(t->Contents("/data") == before);
  EXPECT_OK(co_await lock.Close());
  EXPECT_OK(co_await other_lock.Close());
}

TEST_F(MovedStoreTest, MovedBeforeItIsOpen) { Run(TooEarlyBody(this)); }

}  // namespace
}  // namespace pando::engine_test
