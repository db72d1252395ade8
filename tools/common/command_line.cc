#include "tools/common/command_line.h"

#include <CLI/CLI.hpp>
#include <sstream>
#include <utility>

#include "tools/common/quantity.h"

namespace pando::tools {

namespace {

// "--keys-only" -> "--keys-only,--keys_only", so that both spellings work.
std::string BothSpellings(const std::string& names) {
  std::string all = names, name;
  for (std::istringstream list(names); std::getline(list, name, ',');) {
    const size_t body = name.find_first_not_of('-');
    if (body != 2 || name.find('-', body) == std::string::npos) continue;
    std::replace(name.begin() + 2, name.end(), '-', '_');
    all += ',' + name;
  }
  return all;
}

// CLI11 only says that a command is required.
std::string UnknownCommand(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  if (app->get_require_subcommand_min() == 0) return "";
  for (const std::string& word : root.remaining(/*recurse=*/true)) {
    if (!word.starts_with('-')) return "\"" + word + "\" is not a command";
  }
  return "";
}

}  // namespace

Option& Option::Required() {
  option_->required();
  return *this;
}

Option& Option::ShowDefault() {
  option_->capture_default_str();
  return *this;
}

Option& Option::Excludes(const Option& other) {
  option_->excludes(other.option_);
  return *this;
}

Option& Option::Needs(const Option& other) {
  option_->needs(other.option_);
  return *this;
}

Option& Option::FromEnvironment(const std::string& variable) {
  option_->envname(variable);
  return *this;
}

Option& Option::NotEmpty() {
  option_->check(
      CLI::Validator([](std::string& text) { return text.empty() ? "is empty" : std::string(); }, std::string()));
  return *this;
}

Option& Option::ExistingDirectory() {
  option_->check(CLI::ExistingDirectory);
  return *this;
}

Option& Option::OneOf(std::vector<std::string> values) {
  option_->check(CLI::IsMember(std::move(values)));
  return *this;
}

Option& Option::OneValueEach() {
  option_->allow_extra_args(false);
  return *this;
}

bool Option::given() const { return option_ != nullptr && option_->count() > 0; }

Command Command::Add(const std::string& name, const std::string& help) {
  return Command(app_->add_subcommand(name, help));
}

void Command::Alias(const std::string& name) { app_->alias(name); }
void Command::OptionsAnywhere() { app_->fallthrough(); }
void Command::Version(const std::string& text) { app_->set_version_flag("--version", text); }
void Command::NeedsCommand() { app_->require_subcommand(1); }
void Command::Footer(const std::string& text) { app_->footer(text); }
// CLI11 also calls back the commands above the one that was given.
void Command::OnChosen(std::function<void()> run) {
  app_->callback([app = app_, run = std::move(run)] {
    if (app->get_subcommands().empty()) run();
  });
}

Option Command::Text(const std::string& names, std::string* target, const std::string& help) {
  return Option(app_->add_option(BothSpellings(names), *target, help));
}

Option Command::Texts(const std::string& names, std::vector<std::string>* target, const std::string& help,
                      char delimiter) {
  CLI::Option* option = app_->add_option(BothSpellings(names), *target, help);
  if (delimiter != '\0') option->delimiter(delimiter);
  return Option(option);
}

Option Command::Choice(const std::string& names, std::vector<std::string> values,
                       std::function<void(const std::string&)> take, const std::string& help) {
  return Option(app_->add_option_function<std::string>(BothSpellings(names), take, help)).OneOf(std::move(values));
}

Option Command::Flag(const std::string& names, bool* target, const std::string& help) {
  return Option(app_->add_flag(BothSpellings(names), *target, help));
}

Option Command::Flag(const std::string& names, std::function<void()> set, const std::string& help) {
  return Option(app_->add_flag_callback(BothSpellings(names), std::move(set), help));
}

Option Command::Parsed(const std::string& names, std::function<std::string(const std::string&)> store,
                       std::function<std::string()> shown, const std::string& help) {
  auto take = [store = std::move(store), name = names.substr(0, names.find(','))](const CLI::results_t& results) {
    std::string wrong = store(results.back());
    if (!wrong.empty()) throw CLI::ValidationError(name, wrong);
    return true;
  };
  CLI::Option* option =
      app_->add_option(BothSpellings(names), std::move(take), help, /*defaulted=*/false, std::move(shown));
  option->type_name(kNumberTypeName)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  return Option(option);
}

Option Command::Quantity(const std::string& names, double* target, const std::string& help) {
  const auto store = [target](const std::string& text) -> std::string {
    const std::optional<double> value = ParseQuantity(text);
    if (!value) return fmt::format("\"{}\" is not a number or a size, as in 100e9, 4T or 64Gi", text);
    *target = *value;
    return "";
  };
  Option option = Parsed(
      names, store, [target] { return fmt::format("{}", *target); }, help);
  option.option_->type_name(kQuantityTypeName);
  return option;
}

CommandLine::CommandLine(const std::string& name, const std::string& description)
    : app_(std::make_unique<CLI::App>(description, name)) {
  app_->require_subcommand(1);
}
CommandLine::~CommandLine() = default;

Command CommandLine::root() { return Command(app_.get()); }

CommandLine::Parsed CommandLine::Run(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
    return {};
  } catch (const CLI::ParseError& error) {
    std::ostringstream help, complaint;
    if (app_->exit(error, help, complaint) == 0) return {Outcome::kHelp, help.str(), ""};
    if (const std::string unknown = UnknownCommand(*app_); !unknown.empty()) {
      return {Outcome::kWrong, unknown + "\nRun with --help for more information.\n", unknown};
    }
    return {Outcome::kWrong, complaint.str(), error.what()};
  }
}

}  // namespace pando::tools
