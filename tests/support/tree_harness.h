// TreeHarness: trees without partitions. It has a pool and files on the simulated kernel, and a
// storage that allocates blocks and never reuses those that FreeLater names. It also has shortcuts
// to write, checkpoint, and take snapshots.
//
// Threads: one.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "src/btree/tree.h"
#include "src/buffer_pool/extent_allocator.h"
#include "tests/support/sim_kernel.h"

namespace pando {

class TestStorage final : public PageStore {
 public:
  explicit TestStorage(uint64_t id) : uuid_{id, ~id} {
    allocator_.MarkUsed(Extent::Of(0, 1));  // block 0 would mean "no extent"
  }
  File& file() override { return file_; }
  const Uuid& uuid() const override { return uuid_; }
  Task<Result<Extent>> AllocateForWrite(uint32_t blocks) override { co_return *allocator_.Allocate(blocks); }
  void FreeNow(Extent extent) override { allocator_.Free(extent); }
  void AdoptExtent(Extent, Generation) override {}
  void OrphanExtent(Extent) override {}
  void FreeLater(DeadExtent) override {}
  void OnIoError(const Status& status) override { ADD_FAILURE() << status.ToString(); }

  Extent AllocateBlocks(uint64_t blocks) { return *allocator_.Allocate(static_cast<uint32_t>(blocks)); }
  Task<void> OpenFile(Reactor* reactor) {
    file_ = *co_await File::Open(*reactor, fmt::format("/tree-{}", uuid_.hi), File::Mode::kCreate, /*direct=*/true);
  }
  Task<void> CloseFile() { EXPECT_TRUE((co_await file_.Close()).ok()); }

 private:
  const Uuid uuid_;
  File file_;
  ExtentAllocator allocator_{1u << 20};
};

// One tree with its storage.
struct TestTree {
  TestTree(BufferPool* pool, uint64_t id) : storage(id), tree(*pool, storage) {}
  TestStorage storage;
  Tree tree;
};

class TreeHarness {
 public:
  struct Options {
    uint64_t seed = 1;
    uint32_t page_bytes = 4096;
    uint32_t seal_bytes = 0;
    uint32_t trees = 1;
    uint64_t memory_factor = 4;  // a multiple of the minimum
    Compression compression = Compression::kNone;
  };

  explicit TreeHarness(Options options) : kernel_(options.seed), machine_(kernel_.AddMachine()) {
    reactor_ = machine_->Boot();
    const uint64_t least = BufferPool::MinMemoryBytes(options.page_bytes, 64);
    pool_ = std::make_unique<BufferPool>(*reactor_, BufferPoolOptions{.page_bytes = options.page_bytes,
                                                                      .seal_bytes = options.seal_bytes,
                                                                      .memory_bytes = least * options.memory_factor,
                                                                      .compression = options.compression});
    pool_->Start();
    for (uint32_t i = 0; i < options.trees; ++i) {
      trees_.push_back(std::make_unique<TestTree>(pool_.get(), i + 1));
      Run(Create(reactor_, trees_.back().get()));
    }
  }
  ~TreeHarness() {
    Run(Stop(this));
    for (auto& t : trees_) t->tree.Abandon();
    Run(CloseFiles(this));
  }

  template <typename T>
  T Get(Task<T> task) {
    return *kernel_.RunTask(*reactor_, std::move(task));
  }
  void Run(Task<void> task) { EXPECT_TRUE(kernel_.RunTask(*reactor_, std::move(task))); }
  Tree& tree(size_t i = 0) { return trees_[i]->tree; }
  BufferPool& pool() { return *pool_; }
  std::string FileOf(size_t i) const { return machine_->disk().ReadAll(fmt::format("/tree-{}", i + 1)); }
  Reactor& reactor() { return *reactor_; }

  void Put(std::string key, std::string value, Version version = 1, int64_t expires_at_ms = 0, size_t i = 0) {
    Run(PutTask(this, i, std::move(key), std::move(value), version, expires_at_ms));
  }
  // Merges leaves that become underfull, as partitions do. Returns false if there was no record.
  bool Erase(std::string key, size_t i = 0) { return Get(EraseTask(this, i, std::move(key), /*merge=*/true)); }
  bool EraseOnly(std::string key, size_t i = 0) { return Get(EraseTask(this, i, std::move(key), /*merge=*/false)); }
  FrozenRoot Checkpoint(size_t i = 0) { return Get(CheckpointTask(&tree(i), nullptr)); }
  // Takes a snapshot and writes its pages.
  Generation Snapshot(size_t i = 0) {
    Generation generation = 0;
    Get(CheckpointTask(&tree(i), &generation));
    return generation;
  }
  Aggregates Sum(Generation view, std::string start, std::string end, int64_t now_ms, size_t i = 0) {
    return *Get(tree(i).Aggregate(view, std::move(start), std::move(end), now_ms));
  }

 private:
  static Task<void> Create(Reactor* reactor, TestTree* t) {
    co_await t->storage.OpenFile(reactor);
    Status status = co_await t->tree.CreateEmpty();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  static Task<void> Stop(TreeHarness* h) { co_await h->pool_->Stop(); }
  static Task<void> CloseFiles(TreeHarness* h) {
    for (auto& t : h->trees_) co_await t->storage.CloseFile();
  }

  static Task<void> PutTask(TreeHarness* h, size_t i, std::string key, std::string text, Version version,
                            int64_t expires_at_ms) {
    Tree& tree = h->tree(i);
    const size_t frames = kFramesPerUpdate + h->pool_->FramesFor(static_cast<uint32_t>(text.size()));
    NewValue value{text, {}, version, expires_at_ms};
    if (tree.NeedsOverflow(key.size(), text.size()))
      value.overflow_extent = h->trees_[i]->storage.AllocateBlocks(h->pool_->BlocksFor(text.size()));
    for (;;) {
      EXPECT_TRUE((co_await h->pool_->EnsureFree(frames)).ok());
      Result<PagePin> leaf = co_await tree.FetchLeaf(key);
      EXPECT_TRUE(leaf.ok()) << leaf.status().ToString();
      if (!leaf.ok()) co_return;
      if (h->pool_->free_frames() < frames) continue;
      tree.Upsert(leaf->frame(), key, value);
      co_return;
    }
  }

  static Task<bool> EraseTask(TreeHarness* h, size_t i, std::string key, bool merge) {
    Tree& tree = h->tree(i);
    for (;;) {
      EXPECT_TRUE((co_await h->pool_->EnsureFree(kFramesPerUpdate)).ok());
      Result<PagePin> leaf = co_await tree.FetchLeaf(key);
      EXPECT_TRUE(leaf.ok()) << leaf.status().ToString();
      if (!leaf.ok()) co_return false;
      if (h->pool_->free_frames() < kFramesPerUpdate) continue;
      bool underfull = false;
      const bool erased = tree.Erase(leaf->frame(), key, &underfull);
      leaf->Release();
      if (!underfull || !merge) co_return erased;
      EXPECT_TRUE((co_await tree.MergeLeaf(key)).ok());
      co_return erased;
    }
  }

  static Task<FrozenRoot> CheckpointTask(Tree* tree, Generation* snapshot) {
    tree->EndGeneration();
    if (snapshot) *snapshot = tree->AddSnapshot();
    Result<FrozenRoot> root = co_await tree->WriteFrozen(32, nullptr);
    EXPECT_TRUE(root.ok()) << root.status().ToString();
    co_await tree->FinishCheckpoint();
    co_return *root;
  }

  SimKernel kernel_;
  SimMachine* machine_;
  SimReactor* reactor_ = nullptr;
  std::unique_ptr<BufferPool> pool_;
  std::vector<std::unique_ptr<TestTree>> trees_;
};

}  // namespace pando
