// The command line of a tool: commands, and the options of each.
//
// This is a thin layer over CLI11. CLI11 is one large header, and compiling it takes far longer than
// compiling any of our commands. So only command_line.cc includes it, and commands use these classes.
//
// An option whose name has a dash ("--keys-only") can also be written with an underscore. A number is
// decimal: CLI11's own conversion reads "010" as octal and "0x10" as hexadecimal, and turns a number
// that is too large into the largest one. Here, all that is a usage error.
//
// Threads: one. A Command and an Option are handles, which may be copied. They, and every variable
// that an option stores into, must not be used after the CommandLine has gone, and must live until
// it has run.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace pando::tools {

// The type name that marks numeric options in --help.
inline constexpr char kNumberTypeName[] = "N";
inline constexpr char kQuantityTypeName[] = "SIZE";  // of Command::Quantity

// Returns nothing if `text` is not a decimal number of type T. A number is an optional minus sign
// and digits without a leading zero; a floating-point number may have a fraction and an exponent,
// too.
template <typename T>
std::optional<T> ParseNumber(std::string_view text) {
  static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
  std::string_view digits = text;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return std::nullopt;  // also inf, nan
  if (digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9') return std::nullopt;
  T value{};
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

template <typename T>
std::string NumberRange(T least, T most) {
  const bool lower = least != std::numeric_limits<T>::lowest(), upper = most != std::numeric_limits<T>::max();
  if (lower && upper) return fmt::format("from {} to {}", least, most);
  if (upper) return fmt::format("up to {}", most);
  if (std::is_floating_point_v<T>) return fmt::format("of at least {}", least);
  return fmt::format("from {} to {}", least, most);
}

class Option {
 public:
  Option() = default;  // given() is false
  explicit Option(CLI::Option* option) : option_(option) {}

  Option& Required();
  Option& ShowDefault();  // --help shows the value that the target has now
  Option& Excludes(const Option& other);
  Option& Needs(const Option& other);
  Option& FromEnvironment(const std::string& variable);  // used when the option is not given
  // Refuses an empty string: an unset $token in a script must not silently change what is read.
  Option& NotEmpty();
  Option& ExistingDirectory();
  Option& OneOf(std::vector<std::string> values);
  Option& OneValueEach();  // of Texts: "--name value" takes one value, so a positional argument may follow

  bool given() const;  // after the command line was parsed

 private:
  friend class Command;
  CLI::Option* option_ = nullptr;
};

class Command {
 public:
  explicit Command(CLI::App* app) : app_(app) {}

  Command Add(const std::string& name, const std::string& help);
  void Alias(const std::string& name);
  void OptionsAnywhere();                 // the options of this command may also follow a command that was added to it
  void Version(const std::string& text);  // --version prints it
  void NeedsCommand();                    // one of the added commands must be given
  void Footer(const std::string& text);
  void OnChosen(std::function<void()> run);  // runs when the whole command line was parsed

  // `names` is "key" for a positional argument, or "-v,--verbose". The value is stored in `*target`.
  Option Text(const std::string& names, std::string* target, const std::string& help);
  // Takes several values. A `delimiter` other than 0 separates values, too.
  Option Texts(const std::string& names, std::vector<std::string>* target, const std::string& help,
               char delimiter = '\0');
  // `take` gets one of `values`.
  Option Choice(const std::string& names, std::vector<std::string> values, std::function<void(const std::string&)> take,
                const std::string& help);
  // "--pin,!--no_pin" sets true or false.
  Option Flag(const std::string& names, bool* target, const std::string& help);
  Option Flag(const std::string& names, std::function<void()> set, const std::string& help);
  // A number from `least` to `most`. If the option is given twice, the last one counts.
  template <typename T>
  Option Number(const std::string& names, T* target, const std::string& help,
                std::type_identity_t<T> least = std::numeric_limits<T>::lowest(),
                std::type_identity_t<T> most = std::numeric_limits<T>::max()) {
    return Parsed(
        names, [=](const std::string& text) { return Store(text, target, least, most); },
        [target] { return fmt::format("{}", *target); }, help);
  }
  // A size or another number that may be large, as in 4T, 64Gi or 100e9 (quantity.h).
  Option Quantity(const std::string& names, double* target, const std::string& help);
  // Numbers between commas, each from `least` to `most`.
  template <typename T>
  Option Numbers(const std::string& names, std::vector<T>* target, const std::string& help,
                 std::type_identity_t<T> least = std::numeric_limits<T>::lowest(),
                 std::type_identity_t<T> most = std::numeric_limits<T>::max()) {
    return Parsed(
        names, [=](const std::string& text) { return StoreAll(text, target, least, most); },
        [target] { return fmt::format("{}", fmt::join(*target, ",")); }, help);
  }

 private:
  // Stores `text` and returns "", or says what is wrong with it.
  template <typename T>
  static std::string Store(const std::string& text, T* target, T least, T most) {
    const std::optional<T> value = ParseNumber<T>(text);
    if (!value || *value < least || *value > most) {
      return fmt::format("\"{}\" is not a {} {}", text, std::is_floating_point_v<T> ? "number" : "decimal whole number",
                         NumberRange<T>(least, most));
    }
    *target = *value;
    return "";
  }
  template <typename T>
  static std::string StoreAll(const std::string& text, std::vector<T>* target, T least, T most) {
    std::vector<T> values;
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      if (std::string wrong = Store(text.substr(begin, end - begin), &values.emplace_back(), least, most);
          !wrong.empty()) {
        return wrong;
      }
      begin = end + 1;
    }
    *target = std::move(values);
    return "";
  }
  Option Parsed(const std::string& names, std::function<std::string(const std::string&)> store,
                std::function<std::string()> shown, const std::string& help);

  CLI::App* app_;
};

class CommandLine {
 public:
  CommandLine(const std::string& name, const std::string& description);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  Command root();
  CLI::App& app() { return *app_; }  // for tests, which include CLI11

  enum class Outcome { kRan, kHelp, kWrong };
  struct Parsed {
    Outcome outcome = Outcome::kRan;
    std::string text;     // kHelp: the help. kWrong: the complaint as a person reads it, and how to get help
    std::string problem;  // kWrong: the complaint alone
  };
  // Parses, and runs what OnChosen of the chosen command says.
  Parsed Run(int argc, const char* const* argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace pando::tools
