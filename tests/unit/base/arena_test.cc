#include "src/base/arena.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

struct Piece {
  std::string want;
  std::string_view got;
};

void Check(const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) ASSERT_EQ(piece.got, piece.want);
}

// Sizes of one kind at a time: those that just do not fit into the rest of a block waste the most.
size_t SizeOf(SimRandom* random, uint64_t seed) {
  constexpr size_t kMost[] = {8, 64, 513, 2049, 8193, 20'000, 100'000};
  const size_t most = kMost[seed % std::size(kMost)];
  return random->Chance(0.5) ? most : random->Below(most + 1);
}

TEST(Arena, PiecesStayWhereTheyAreAndLittleIsWasted) {
  for (const uint64_t seed : Seeds(70)) {
    SCOPED_TRACE(Replay(seed));
    SimRandom random(seed);
    Arena arena;
    std::vector<Piece> pieces;
    size_t bytes = 0;
    const uint64_t count = random.Below(600);
    for (uint64_t i = 0; i < count; ++i) {
      const size_t first = SizeOf(&random, seed) / 2;
      Piece& piece = pieces.emplace_back();
      piece.want.assign(first, static_cast<char>('a' + i % 26));
      piece.want.append(SizeOf(&random, seed) / 2, '!');
      piece.got = arena.Copy(std::string_view(piece.want).substr(0, first), std::string_view(piece.want).substr(first));
      bytes += piece.want.size();
      ASSERT_LE(arena.allocated_bytes(), Arena::MostAllocated(bytes)) << bytes;
    }
    Check(pieces);
    Arena moved = std::move(arena);
    EXPECT_EQ(arena.allocated_bytes(), 0u);  // NOLINT: a moved arena is empty
    EXPECT_EQ(arena.Copy("another"), "another");
    Check(pieces);
    EXPECT_GE(moved.allocated_bytes(), bytes);
  }
}

TEST(Arena, PiecesOfAnAdoptedArenaLiveAsLongAsTheOneThatAdoptsIt) {
  std::vector<Piece> pieces;
  Arena all;
  for (int i = 0; i < 50; ++i) {
    Arena part;
    for (const size_t bytes : {1u, 20u, 300u, 9000u}) {
      std::string copied(bytes, static_cast<char>('a' + i % 26)), adopted(bytes, 'x');
      pieces.push_back({copied, part.Copy(copied)});
      pieces.push_back({adopted, part.Adopt(adopted)});
    }
    all.Adopt(std::move(part));
  }
  Check(pieces);
}

TEST(Arena, ALongStringIsTakenOverWithoutACopy) {
  Arena arena;
  std::string text(1000, 'x');
  const char* data = text.data();
  EXPECT_EQ(arena.Adopt(std::move(text)).data(), data);
}

TEST(Arena, NothingTakesNothing) {
  Arena arena;
  EXPECT_TRUE(arena.Copy("").empty());
  EXPECT_EQ(arena.allocated_bytes(), 0u);
}

}  // namespace
}  // namespace pando
