#include "src/base/hash_slices.h"

#include <gtest/gtest.h>

#include <random>

namespace pando {
namespace {

__extension__ typedef unsigned __int128 Wide;

// SL1.
TEST(HashSlice, EachHashIsInOneSlice) {
  std::mt19937_64 random(5);
  for (const uint32_t slices : {1u, 2u, 3u, 7u, 8u, 1000u, 65535u, kMaxSlices}) {
    uint64_t next = 0;
    for (uint32_t slice = 0; slice < slices; ++slice) {
      const HashSlice here = HashSlice::Of(slices, slice);
      ASSERT_EQ(here.first, next) << slice << " of " << slices;
      ASSERT_GE(here.last, here.first);
      const uint64_t most = slices == 1 ? UINT64_MAX : UINT64_MAX / slices + 1;
      ASSERT_LE(here.last - here.first, most) << "they are equal";
      next = here.last + 1;
    }
    EXPECT_EQ(next, 0u) << "the last one ends with the last hash";
    for (int i = 0; i < 100; ++i) {
      const uint64_t hash = random();
      const auto slice = static_cast<uint32_t>((static_cast<Wide>(hash) * slices) >> 64);
      EXPECT_TRUE(HashSlice::Of(slices, slice).Has(hash));
    }
  }
  EXPECT_TRUE(HashSlice().all());
  EXPECT_TRUE(HashSlice::Of(1, 0).all());
  EXPECT_FALSE(HashSlice::Of(2, 1).all());
}

// Partitions are powers of two: as many slices as there are ranges are these ranges.
TEST(HashSlice, OfAPowerOfTwoAreTheFirstBits) {
  EXPECT_EQ(HashSlice::Of(16, 3), (HashSlice{uint64_t{3} << 60, (uint64_t{4} << 60) - 1}));
  EXPECT_TRUE(HashSlice::Of(4, 1).HasAll(uint64_t{4} << 60, (uint64_t{5} << 60) - 1));
  EXPECT_FALSE(HashSlice::Of(4, 1).Overlaps(0, (uint64_t{4} << 60) - 1));
  EXPECT_TRUE(HashSlice::Of(32, 1).Overlaps(0, (uint64_t{1} << 60) - 1));
}

}  // namespace
}  // namespace pando
