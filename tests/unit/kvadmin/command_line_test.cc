// Every numeric option of every command accepts only decimal numbers, and rejects numbers out of
// range.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <set>

#include "gen-cpp/pando_constants.h"
#include "tools/common/command_line.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {
namespace {

TEST(ParseNumber, DecimalAndInRangeOrNothing) {
  EXPECT_EQ(tools::ParseNumber<int64_t>("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(tools::ParseNumber<uint64_t>("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(tools::ParseNumber<uint64_t>("0"), 0u);
  EXPECT_EQ(tools::ParseNumber<double>("-2.5e3"), -2500);
  EXPECT_EQ(tools::ParseNumber<double>("0.5"), 0.5);
  for (const char* bad :
       {"", "-", "+1", "010", "-010", "0x10", "1e3", "1 ", " 1", "1,000", "9223372036854775808", "ten", "1.0", "--1"}) {
    EXPECT_FALSE(tools::ParseNumber<int64_t>(bad)) << bad;
  }
  EXPECT_FALSE(tools::ParseNumber<uint64_t>("-1"));
  EXPECT_FALSE(tools::ParseNumber<uint64_t>("18446744073709551616"));
  EXPECT_FALSE(tools::ParseNumber<uint8_t>("256"));
  for (const char* bad : {"nan", "inf", "-inf", "1e999", "0x1p3", "010", "."}) {
    EXPECT_FALSE(tools::ParseNumber<double>(bad)) << bad;
  }
}

void ForEachCommand(CLI::App* app, std::string path, const std::function<void(CLI::App*, const std::string&)>& fn) {
  fn(app, path);
  for (CLI::App* sub : app->get_subcommands({})) ForEachCommand(sub, path + " " + sub->get_name(), fn);
}

TEST(CommandLine, NumbersAreDecimalAndInRange) {
  tools::CommandLine line("kvadmin", "");
  Globals globals;
  DescribeCommandLine(line.root(), &globals);
  std::set<std::string> numeric;
  ForEachCommand(&line.app(), "kvadmin", [&](CLI::App* command, const std::string& path) {
    for (CLI::Option* option : command->get_options()) {
      const std::string name = path + " " + option->get_name();
      // CLI11 uses these type names for its own conversions, which are too lenient.
      const std::string type = option->get_type_name().substr(0, option->get_type_name().find(':'));
      for (const char* loose : {"INT", "UINT", "FLOAT"}) EXPECT_NE(type, loose) << name;
      if (option->get_type_name() != tools::kNumberTypeName) continue;
      numeric.insert(name);
      for (const char* bad :
           {"010", "0x10", "1e3", "+1", "ten", "", " 1", "99999999999999999999", "-99999999999999999999"}) {
        option->clear();
        option->add_result(bad);
        EXPECT_THROW(option->run_callback(), CLI::ParseError) << name << " = \"" << bad << "\"";
      }
      // Every number is an amount, except for increment's --by, which may be negative.
      option->clear();
      option->add_result("-1");
      if (option->get_name() == "--by") {
        EXPECT_NO_THROW(option->run_callback());
      } else {
        EXPECT_THROW(option->run_callback(), CLI::ParseError) << name;
      }
    }
  });
  for (const char* known : {"kvadmin --timeout-ms", "kvadmin increment --by", "kvadmin scan --limit",
                            "kvadmin diff --limit", "kvadmin put --ttl-ms", "kvadmin load --batch-ops",
                            "kvadmin snapshot open --ttl-s", "kvadmin wal-dump --from-lsn", "kvadmin split --parts",
                            "kvadmin restore --reactors", "kvadmin ping --count", "kvadmin check --mb-per-s"}) {
    EXPECT_TRUE(numeric.contains(known)) << known;
  }
}

// Runs `arguments` on a command line that stores into these variables.
struct Sample {
  std::string text;
  bool flag = false;
  std::vector<uint64_t> shares = {8, 2};
  std::string choice;
  int runs = 0;

  tools::CommandLine::Parsed Run(std::vector<const char*> arguments) {
    tools::CommandLine line("tool", "");
    tools::Command command = line.root().Add("go", "");
    tools::Option option = command.Text("--some-text", &text_, "").NotEmpty();
    command.Flag("--keys-only", &flag, "").Excludes(option);
    command.Numbers("--shares", &shares, "", 1, 100);
    command.Choice(
        "--format", {"csv", "jsonl"}, [this](const std::string& name) { choice = name; }, "");
    command.OnChosen([&] {
      ++runs;
      if (option.given()) text = text_;
    });
    arguments.insert(arguments.begin(), {"tool", "go"});
    return line.Run(static_cast<int>(arguments.size()), arguments.data());
  }

 private:
  std::string text_ = "not given";
};

TEST(CommandLine, StoresWhatWasGiven) {
  using Outcome = tools::CommandLine::Outcome;
  Sample none;
  EXPECT_EQ(none.Run({}).outcome, Outcome::kRan);
  EXPECT_EQ(none.runs, 1);
  EXPECT_EQ(none.text, "");
  EXPECT_THAT(none.shares, testing::ElementsAre(8, 2));
  Sample all;
  EXPECT_EQ(all.Run({"--some-text", "a", "--shares", "1,100,7", "--format", "csv"}).outcome, Outcome::kRan);
  EXPECT_EQ(all.text, "a");
  EXPECT_THAT(all.shares, testing::ElementsAre(1, 100, 7));
  EXPECT_EQ(all.choice, "csv");
  Sample underscored;
  EXPECT_EQ(underscored.Run({"--keys_only"}).outcome, Outcome::kRan);
  EXPECT_TRUE(underscored.flag);
}

TEST(CommandLine, RefusesWhatDoesNotFit) {
  using Outcome = tools::CommandLine::Outcome;
  for (const std::vector<const char*>& wrong :
       std::vector<std::vector<const char*>>{{"--some-text", ""},
                                             {"--some_text", "a", "--keys-only"},
                                             {"--shares", "1,101"},
                                             {"--shares", "1,,2"},
                                             {"--shares", "1,"},
                                             {"--format", "xml"},
                                             {"--no-such-option"}}) {
    Sample sample;
    const tools::CommandLine::Parsed parsed = sample.Run(wrong);
    EXPECT_EQ(parsed.outcome, Outcome::kWrong) << wrong[0];
    EXPECT_NE(parsed.problem, "") << wrong[0];
    EXPECT_EQ(sample.runs, 0) << wrong[0];
  }
  Sample help;
  const tools::CommandLine::Parsed parsed = help.Run({"--help"});
  EXPECT_EQ(parsed.outcome, Outcome::kHelp);
  EXPECT_NE(parsed.text.find("--keys-only"), std::string::npos) << parsed.text;
}

TEST(CommandLine, AnUnknownCommandIsNamed) {
  for (const auto& [words, unknown] : std::vector<std::pair<std::vector<const char*>, std::string>>{
           {{"kvadmin", "bogus"}, "\"bogus\" is not a command"},
           {{"kvadmin", "--json", "bogus", "--x"}, "\"bogus\" is not a command"},
           {{"kvadmin", "snapshot", "shut"}, "\"shut\" is not a command"},
           {{"kvadmin"}, "A subcommand is required"}}) {
    tools::CommandLine line("kvadmin", "");
    Globals globals;
    DescribeCommandLine(line.root(), &globals);
    const tools::CommandLine::Parsed parsed = line.Run(static_cast<int>(words.size()), words.data());
    EXPECT_EQ(parsed.outcome, tools::CommandLine::Outcome::kWrong);
    EXPECT_EQ(parsed.problem, unknown);
  }
}

TEST(CommandLine, TellsItsVersion) {
  tools::CommandLine line("kvadmin", "");
  Globals globals;
  DescribeCommandLine(line.root(), &globals);
  const char* const words[] = {"kvadmin", "--version"};
  const tools::CommandLine::Parsed parsed = line.Run(2, words);
  EXPECT_EQ(parsed.outcome, tools::CommandLine::Outcome::kHelp);
  EXPECT_TRUE(parsed.text.starts_with("kvadmin 0.")) << parsed.text;
}

TEST(Client, EveryErrorOfTheApiHasItsName) {
  const auto& c = api::g_pando_constants;
  EXPECT_EQ(ErrorName(c.DISK_FULL), "DISK_FULL");
  std::set<std::string> names;
  for (int32_t code = c.BAD_REQUEST; code <= c.FEED_GONE; ++code) names.insert(ErrorName(code));
  EXPECT_EQ(names.size(), static_cast<size_t>(c.FEED_GONE - c.BAD_REQUEST + 1));
  for (const std::string& name : names) EXPECT_FALSE(name.starts_with("code")) << name;
  EXPECT_EQ(ErrorName(1000), "code 1000");
  api::KvError error;
  error.code = c.TOO_LARGE;
  error.message = "why";
  error.applied = c.APPLIED_NO;
  EXPECT_EQ(FromKvError(error).message(), "the server refused (TOO_LARGE): why");
}

TEST(CommandLine, EveryCommandHasExamplesInItsHelp) {
  tools::CommandLine line("kvadmin", "");
  Globals globals;
  DescribeCommandLine(line.root(), &globals);
  for (CLI::App* command : line.app().get_subcommands({})) {
    EXPECT_NE(command->get_footer().find("Example"), std::string::npos) << command->get_name();
    EXPECT_NE(command->get_description(), "") << command->get_name();
  }
}

}  // namespace
}  // namespace pando::admin
