// Every numeric option of every command accepts only decimal numbers, and rejects numbers out of
// range.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "tools/common/number_option.h"
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
  CLI::App app;
  Globals globals;
  DescribeCommandLine(app, &globals);
  std::set<std::string> numeric;
  ForEachCommand(&app, "kvadmin", [&](CLI::App* command, const std::string& path) {
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

TEST(CommandLine, EveryCommandHasExamplesInItsHelp) {
  CLI::App app;
  Globals globals;
  DescribeCommandLine(app, &globals);
  for (CLI::App* command : app.get_subcommands({})) {
    EXPECT_NE(command->get_footer().find("Example"), std::string::npos) << command->get_name();
    EXPECT_NE(command->get_description(), "") << command->get_name();
  }
}

}  // namespace
}  // namespace pando::admin
