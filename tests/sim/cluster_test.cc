// Stories of a simulated cluster: those of tests/sim/stories, and random ones. One production node
// serves clients over the simulated network while machines, disks, networks and clocks fail. What
// the clients saw must be linearizable.
//
// PANDO_TEST_SEED runs one seed; PANDO_TEST_ROUNDS is the number of seeds of the random stories;
// PANDO_TEST_STORY is the path of a story that Cluster.TheNamedStory runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/sim/random_story.h"
#include "tests/sim/story_runner.h"
#include "tests/support/child_process.h"
#include "tests/support/seeds.h"

namespace pando {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kRandomStories = 36;
constexpr uint64_t kStoriesPerProcess = 6;  // crashed nodes stay allocated
constexpr int kShrinkRuns = 60;
constexpr unsigned kJobs = 2;

std::vector<Statement> Parse(const std::string& text) {
  Result<std::vector<Statement>> story = ParseStory(text);
  CHECK(story.ok()) << story.status().message() << "\n" << text;
  return *std::move(story);
}

// Runs the story in a process of its own. Returns what went wrong, or "".
std::string RunStory(const std::string& text, uint64_t seed) {
  const std::string result = fmt::format("story_result_{}", getpid());
  std::string died;
  InChildProcess(
      [&] {
        StoryRunner runner(seed);
        std::ofstream(result) << runner.Run(Parse(text));
        return true;
      },
      &died);
  std::ostringstream problem;
  problem << std::ifstream(result).rdbuf();
  std::filesystem::remove(result);
  return died.empty() ? problem.str() : died;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class WrittenStory : public testing::TestWithParam<std::string> {};

TEST_P(WrittenStory, EndsAsItSays) {
  const std::string text = ReadFile(std::filesystem::path(PANDO_STORIES) / (GetParam() + ".story"));
  ASSERT_FALSE(text.empty());
  for (uint64_t seed : Seeds(3)) {
    SCOPED_TRACE(Replay(seed));
    EXPECT_EQ(RunStory(text, seed), "");
  }
}

std::vector<std::string> StoryNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(PANDO_STORIES)) {
    if (entry.path().extension() == ".story") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Cluster, WrittenStory, testing::ValuesIn(StoryNames()),
                         [](const auto& story) { return story.param; });

// Tells a failed random story: the story, its shortest form that fails too, and how to run it again.
void Report(uint64_t seed, const std::string& text, const std::string& problem) {
  auto fails = [seed](const std::vector<Statement>& story) { return !RunStory(StoryText(story), seed).empty(); };
  const std::vector<Statement> story = Parse(text);
  const std::vector<Statement> shorter = ShrinkStory(story, kShrinkRuns, fails);
  const std::string short_problem = RunStory(StoryText(shorter), seed);
  fprintf(stderr,
          "the random story of seed %lu failed: %s\n-- the story\n%s-- the shortest part that fails too\n%s%s\n"
          "replay: PANDO_TEST_SEED=%lu bin/sim_cluster --gtest_filter=Cluster.RandomStories\n",
          seed, problem.c_str(), StoryText(story).c_str(), StoryText(shorter).c_str(), short_problem.c_str(), seed);
}

TEST(Cluster, RandomStories) {
  const char* only = std::getenv("PANDO_TEST_SEED");
  const char* rounds = std::getenv("PANDO_TEST_ROUNDS");
  const uint64_t seeds = std::max<uint64_t>(kRandomStories, rounds ? std::strtoull(rounds, nullptr, 10) : 0);
  const uint64_t begin = only ? std::strtoull(only, nullptr, 10) : 1;
  const std::string failure =
      InBatches(only ? 1 : seeds, kStoriesPerProcess, kJobs, [&](uint64_t first, uint64_t last) {
        for (uint64_t seed = begin + first; seed < begin + last; ++seed) {
          const std::string text = RandomStory(seed);
          StoryRunner runner(seed);
          const std::string problem = runner.Run(Parse(text));
          if (std::getenv("PANDO_TEST_VERBOSE")) fprintf(stderr, "seed %lu: %s\n", seed, runner.Summary().c_str());
          if (problem.empty()) continue;
          Report(seed, text, problem);
          return false;
        }
        return true;
      });
  EXPECT_EQ(failure, "");
}

TEST(Cluster, TheNamedStory) {
  const char* path = std::getenv("PANDO_TEST_STORY");
  if (path == nullptr) GTEST_SKIP() << "PANDO_TEST_STORY is the path of the story to run";
  for (uint64_t seed : Seeds(1)) EXPECT_EQ(RunStory(ReadFile(path), seed), "") << "seed " << seed;
}

// The same seed gives the same run, to the last event.
TEST(Cluster, AStoryRepeatsExactly) {
  uint64_t traces[2] = {};
  const std::string file = fmt::format("story_trace_{}", getpid());
  for (uint64_t& trace : traces) {
    ASSERT_TRUE(InChildProcess([&] {
      StoryRunner runner(5);
      if (!runner.Run(Parse(RandomStory(5))).empty()) return false;
      std::ofstream(file) << runner.kernel().trace_hash();
      return true;
    }));
    std::ifstream(file) >> trace;
  }
  std::filesystem::remove(file);
  EXPECT_EQ(traces[0], traces[1]);
  EXPECT_NE(traces[0], 0u);
}

// A disk that lies about syncs loses what the node acknowledged. If the stories did not notice, they
// would prove nothing about the order of sync and acknowledgement.
TEST(Cluster, NoticesADiskThatLies) {
  const std::string story =
      "machine a starts\n"
      "3 clients work on 2 keys\n"
      "wait 100ms\n"
      "disk a lies about syncs\n"
      "wait 500ms\n"
      "machine a loses power\n"
      "wait 10ms\n"
      "machine a starts\n"
      "wait 300ms\n";
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) noticed += !RunStory(story, seed).empty();
  EXPECT_GE(noticed, 3);
}

// So does a disk that goes back in time.
TEST(Cluster, NoticesADiskThatGoesBack) {
  const std::string problem = RunStory(
      "machine a starts\n"
      "client 1 puts x = 1\n"
      "image a as before\n"
      "expect client 1 puts x = 2\n"
      "machine a loses power\n"
      "restore a from before\n"
      "machine a starts\n"
      "client 1 gets x\n"  // resets the connection that the node forgot
      "expect client 1 gets x = 1\n",
      1);
  EXPECT_THAT(problem, HasSubstr("not linearizable"));
  EXPECT_THAT(problem, HasSubstr("client 1 gets x = 1"));
}

TEST(Cluster, SaysWhichStatementFailed) {
  EXPECT_EQ(RunStory("machine a starts\n\nexpect client 1 gets x = 1\n", 1),
            "line 3, 'expect client 1 gets x = 1': the value is nothing");
  EXPECT_EQ(RunStory("client 1 gets x", 1), "line 1, 'client 1 gets x': no machine was started before");
  EXPECT_EQ(RunStory("wait 2ms\nat 1ms heal", 1), "line 2, 'at 1ms heal': that time passed 1000 us ago");
}

TEST(Cluster, ShrinksAStory) {
  const std::vector<Statement> story =
      Parse(RandomStory(3) + "cut a -> b\n" + RandomStory(4) + "power fails everywhere\n");
  auto has = [](const std::vector<Statement>& s, Statement::Kind kind) {
    return std::any_of(s.begin(), s.end(), [kind](const Statement& one) { return one.kind == kind; });
  };
  const auto shorter = ShrinkStory(story, 1000, [&](const std::vector<Statement>& s) {
    return has(s, Statement::Kind::kPowerLossEverywhere) && has(s, Statement::Kind::kWork);
  });
  EXPECT_EQ(shorter.size(), 2u);
}

}  // namespace
}  // namespace pando
