#include "src/node/partition_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "tests/support/fake_partition.h"

namespace pando {
namespace {

// Each partition has as many reads, and as many bytes, as its ID says.
class PartitionSumsTest : public testing::Test {
 protected:
  void Open(uint32_t id) {
    owned_.push_back(std::make_unique<FakePartition>(id));
    owned_.back()->statistics.reads_total = owned_.back()->statistics.file_bytes = id;
    const auto before = [](const Partition* p, uint32_t wanted) { return p->id() < wanted; };
    open_.insert(std::lower_bound(open_.begin(), open_.end(), id, before), owned_.back().get());
  }
  void Drop(uint32_t id) {
    std::erase_if(open_, [id](const Partition* p) { return p->id() == id; });
    dropped_.reads_total += id;
  }
  std::optional<PartitionStats> Add() { return sums_.Add(open_, dropped_); }

  std::vector<std::unique_ptr<FakePartition>> owned_;
  std::vector<Partition*> open_;
  PartitionStats dropped_;
  PartitionSums sums_;
};

TEST_F(PartitionSumsTest, OfNone) {
  EXPECT_EQ(Add()->reads_total, 0u);
  Open(0);
  Drop(0);
  dropped_.lanes_refused_total = 3;
  EXPECT_EQ(Add()->lanes_refused_total, 3u);
}

TEST_F(PartitionSumsTest, EachIsAddedOnceWhateverComesAndGoes) {
  uint64_t all = 0;
  for (uint32_t id = 10; id < 10 + 3 * PartitionSums::kPerCall; ++id) Open(id), all += id;
  for (int round = 0; round < 3; ++round) {
    EXPECT_FALSE(Add());
    EXPECT_FALSE(Add());
    EXPECT_EQ(Add()->reads_total, all);
  }
  // Some of those that were added go, and others come among them.
  EXPECT_FALSE(Add());
  for (uint32_t id = 20; id < 40; ++id) Drop(id);
  for (uint32_t id = 0; id < 5; ++id) Open(id);
  EXPECT_FALSE(Add());
  const std::optional<PartitionStats> sums = Add();
  EXPECT_EQ(sums->reads_total, all);
  EXPECT_EQ(sums->file_bytes, all);
  // From the next time on, what is gone counts only among the dropped ones.
  for (int call = 0; call < 2; ++call) EXPECT_FALSE(Add());
  EXPECT_EQ(Add()->reads_total, all + 0 + 1 + 2 + 3 + 4);
  // One that is not reached before it is dropped waits for the next time.
  EXPECT_FALSE(Add());
  const uint32_t last = 10 + 3 * PartitionSums::kPerCall - 1;
  Drop(last);
  EXPECT_FALSE(Add());
  EXPECT_EQ(Add()->reads_total, all + 10 - last);
  for (int call = 0; call < 2; ++call) EXPECT_FALSE(Add());
  EXPECT_EQ(Add()->reads_total, all + 10);
}

}  // namespace
}  // namespace pando
