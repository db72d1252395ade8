// A tree that is abandoned while others use the pool.
#include <gtest/gtest.h>

#include "tests/support/tree_harness.h"

namespace pando {
namespace {

struct Turns {
  static Task<void> Count(Reactor* reactor, Turns* turns) {
    while (!turns->over) {
      co_await Yield(*reactor);
      ++turns->passed;
    }
  }
  static Task<void> Abandon(Tree* tree, Turns* turns) {
    co_await tree->AbandonInTurns();
    turns->over = true;
  }
  static Task<void> Both(TreeHarness* h, Turns* turns) {
    TaskGroup tasks;
    tasks.Spawn(Count(&h->reactor(), turns));
    tasks.Spawn(Abandon(&h->tree(0), turns));
    // This evicts pages, whether they belong to the tree or not.
    while (!turns->over) {
      h->pool().MakeRoom(h->pool().free_frames() + 1);
      co_await Yield(h->reactor());
    }
    co_await tasks.Drain();
  }
  int passed = 0;
  bool over = false;
};

TEST(Abandon, TakesManyShortTurns) {
  TreeHarness h({.trees = 2, .memory_factor = 24});
  const std::string value(700, 'v');
  for (int i = 0; i < 20'000; ++i) h.Put(fmt::format("key-{:06}", i * 7919 % 20'000), value);
  for (int i = 0; i < 20; ++i) h.Put(fmt::format("key-{}", i), value, 1, 0, 1);
  h.Checkpoint(0);
  h.Checkpoint(1);
  EXPECT_EQ(h.pool().stats().dirty_pages, 0u);
  Turns turns;
  const uint64_t evictions = h.pool().stats().evictions_total;
  h.Run(Turns::Both(&h, &turns));
  EXPECT_GE(turns.passed, 3) << "the turns are long";
  EXPECT_GT(h.pool().stats().evictions_total, evictions) << "the pool was idle";
  const BufferPoolStats stats = h.pool().stats();
  EXPECT_LT(stats.pages - stats.free_pages, 20u) << "frames are lost";
  EXPECT_EQ(h.Sum(0, "", "", 0, 1).count, 20u);
}

}  // namespace
}  // namespace pando
