// Tests of the language of stories: every form of statement parses, a story prints as it was
// written, and a mistake is reported with its line, its column, and what could stand there.
#include "tests/support/story.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pando {
namespace {

using Kind = Statement::Kind;

Statement One(const std::string& line) {
  Result<std::vector<Statement>> story = ParseStory(line);
  EXPECT_TRUE(story.ok()) << story.status().ToString();
  EXPECT_EQ(story.ok() ? story->size() : 0, 1u) << line;
  return story.ok() && !story->empty() ? story->front() : Statement();
}

std::string Mistake(const std::string& text) {
  Result<std::vector<Statement>> story = ParseStory(text);
  EXPECT_FALSE(story.ok()) << text;
  return story.ok() ? "" : story.status().message();
}

TEST(Story, ReadsStatementsWithTheirArguments) {
  const Statement start = One("machine a starts with 3 reactors");
  EXPECT_EQ(start.kind, Kind::kStart);
  EXPECT_EQ(start.Word("machine"), "a");
  EXPECT_EQ(start.Number("reactors"), 3);
  EXPECT_FALSE(One("machine a starts").Has("reactors"));

  const Statement delay = One("delay a -> clients by 10ms to 2s");
  EXPECT_EQ(delay.kind, Kind::kDelay);
  EXPECT_EQ(delay.Word("from"), "a");
  EXPECT_EQ(delay.Word("to"), "clients");
  EXPECT_EQ(delay.Number("low"), 10 * kMillisecond);
  EXPECT_EQ(delay.Number("high"), 2 * kSecond);

  EXPECT_EQ(One("cut a -> b").kind, Kind::kCut);
  EXPECT_EQ(One("cut a -- b").kind, Kind::kCutBoth);
  EXPECT_EQ(One("heal").kind, Kind::kHeal);
  EXPECT_EQ(One("heal a -> b").kind, Kind::kHealOne);
  EXPECT_EQ(One("clock a runs at -200ppm").Number("rate"), -200);
  EXPECT_EQ(One("clock a jumps by -3s").Number("shift"), -3 * kSecond);
  EXPECT_EQ(One("pause a inside a turn for 2s after 17 calls").Number("calls"), 17);
}

TEST(Story, ReadsTimesAndExpectations) {
  Statement s = One("at 500ms pause c for 2s");
  EXPECT_EQ(s.at_ns, 500 * kMillisecond);
  EXPECT_EQ(s.kind, Kind::kPause);
  EXPECT_EQ(One("after 1min machine a crashes").after_ns, 60 * kSecond);
  EXPECT_TRUE(One("meanwhile client 1 puts x = 1").meanwhile);
  EXPECT_EQ(One("client 1 puts x = 1").expected, Statement::Expected::kAnything);
  s = One("after 2ms expect client 2 gets x = nothing");
  EXPECT_EQ(s.expected, Statement::Expected::kSuccess);
  EXPECT_EQ(s.Value("value"), std::nullopt);
  EXPECT_EQ(One("expect client 2 gets x = 7").Value("value"), "7");
  EXPECT_EQ(One("expect client 1 puts x = 1 and fails").expected, Statement::Expected::kFailure);
  s = One("expect client 1 swaps x from nothing to 2 and is refused");
  EXPECT_EQ(s.expected, Statement::Expected::kRefusal);
  EXPECT_EQ(s.Value("expected"), std::nullopt);
  EXPECT_EQ(One("expect client 1 adds -3 to x and gets 4").Number("delta"), -3);
}

TEST(Story, PrintsWhatItRead) {
  const std::string text =
      "# A story\n"
      "  machine   a starts   # at last\n"
      "\n"
      "at 500ms   pause a for 2s\n"
      "expect client 1 gets x = 1\n";
  Result<std::vector<Statement>> story = ParseStory(text);
  ASSERT_TRUE(story.ok()) << story.status().ToString();
  EXPECT_EQ((*story)[1].line, 4);
  EXPECT_EQ(StoryText(*story), "machine a starts\nat 500ms pause a for 2s\nexpect client 1 gets x = 1\n");
}

// Replaces every argument of a form of the grammar by a word that fits.
std::string Example(std::string form) {
  const std::pair<const char*, const char*> words[] = {
      {"<machine>", "a"}, {"<peer>", "b"},   {"<from>", "a"},    {"<to>", "b"},       {"<reactors>", "2"},
      {"<low>", "1ms"},   {"<high>", "9ms"}, {"<time>", "3s"},   {"<calls>", "5"},    {"<rate>", "+20ppm"},
      {"<shift>", "+1h"}, {"<count>", "1"},  {"<image>", "old"}, {"<clients>", "3"},  {"<keys>", "2"},
      {"<client>", "1"},  {"<key>", "x"},    {"<value>", "1"},   {"<expected>", "7"}, {"<delta>", "2"}};
  for (const auto& [name, word] : words) {
    for (size_t at; (at = form.find(name)) != std::string::npos;) form.replace(at, strlen(name), word);
  }
  return form;
}

TEST(Story, EveryFormOfTheGrammarParses) {
  for (const std::string& form : StoryGrammar()) {
    const std::string line = Example(form);
    EXPECT_EQ(line.find('<'), std::string::npos) << line;
    EXPECT_EQ(One(line).text, line);
  }
}

TEST(Story, NamesThePlaceOfAMistake) {
  EXPECT_EQ(Mistake("machine a starts\n  cut a => b\n"), "line 2, column 9: expected '--' or '->', but found '=>'");
  EXPECT_EQ(Mistake("at soon heal"), "line 1, column 4: expected a time such as 500ms, but found 'soon'");
  EXPECT_EQ(Mistake("at 5ms"), "line 1, column 7: expected a statement, but found the end of the line");
  EXPECT_EQ(Mistake("explode a"), "line 1, column 1: no statement begins with 'explode'");
  EXPECT_EQ(Mistake("wait 5"), "line 1, column 6: expected a time such as 500ms, but found '5'");
  EXPECT_EQ(Mistake("wait 99999999999h"), "line 1, column 6: expected a time such as 500ms, but found '99999999999h'");
  EXPECT_EQ(Mistake("power fails everywhere now"), "line 1, column 24: expected the end of the line, but found 'now'");
  EXPECT_EQ(Mistake("machine A starts"),
            "line 1, column 9: expected a name of lower-case letters and digits, but found 'A'");
  EXPECT_EQ(Mistake("clock a runs at 5"), "line 1, column 17: expected a rate such as +200ppm, but found '5'");
  EXPECT_EQ(Mistake("clock a runs at -999999ppm"),
            "line 1, column 17: expected a rate such as +200ppm, but found '-999999ppm'");
  EXPECT_EQ(Mistake("client 1 puts x = nothing"),
            "line 1, column 19: expected a value of letters and digits, but found 'nothing'");
  EXPECT_EQ(Mistake("expect machine a starts"),
            "line 1, column 8: expected an operation of a client, but found 'machine'");
  // What only `expect` may demand.
  EXPECT_EQ(Mistake("client 1 gets x = 1"), "line 1, column 17: expected the end of the line, but found '='");
}

}  // namespace
}  // namespace pando
