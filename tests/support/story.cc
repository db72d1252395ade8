#include "tests/support/story.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <set>

namespace pando {
namespace {

using Kind = Statement::Kind;
using Expected = Statement::Expected;

// A pattern is a sequence of words. A word <name:type> stands for an argument. Types: name, key,
// value, count, number, time, shift, rate.
struct Form {
  Kind kind;
  const char* pattern;
  bool operation = false;  // of a client; `meanwhile` and `expect` may stand before it
  // Set: the form is valid only after `expect`.
  Expected only_expected = Expected::kAnything;
};

const Form kForms[] = {
    {Kind::kStart, "machine <machine:name> starts"},
    {Kind::kStart, "machine <machine:name> starts with <reactors:count> reactors"},
    {Kind::kStop, "machine <machine:name> stops"},
    {Kind::kCrash, "machine <machine:name> crashes"},
    {Kind::kPowerLoss, "machine <machine:name> loses power"},
    {Kind::kPowerLossEverywhere, "power fails everywhere"},
    {Kind::kForget, "machine <machine:name> forgets <peer:name>"},
    {Kind::kCut, "cut <from:name> -> <to:name>"},
    {Kind::kCutBoth, "cut <from:name> -- <to:name>"},
    {Kind::kHeal, "heal"},
    {Kind::kHealOne, "heal <from:name> -> <to:name>"},
    {Kind::kHealBoth, "heal <from:name> -- <to:name>"},
    {Kind::kDelay, "delay <from:name> -> <to:name> by <low:time> to <high:time>"},
    {Kind::kHold, "hold <from:name> -> <to:name> for <time:time>"},
    {Kind::kReset, "reset <from:name> -- <to:name>"},
    {Kind::kPause, "pause <machine:name> for <time:time>"},
    {Kind::kFreeze, "freeze <machine:name> for <time:time>"},
    {Kind::kPauseInTurn, "pause <machine:name> inside a turn for <time:time>"},
    {Kind::kPauseInTurn, "pause <machine:name> inside a turn for <time:time> after <calls:count> calls"},
    {Kind::kClockRate, "clock <machine:name> runs at <rate:rate>"},
    {Kind::kClockJump, "clock <machine:name> jumps by <shift:shift>"},
    {Kind::kDiskSlow, "disk <machine:name> takes <low:time> to <high:time>"},
    {Kind::kDiskHangs, "disk <machine:name> hangs"},
    {Kind::kSyncsHang, "disk <machine:name> hangs in syncs"},
    {Kind::kDiskRecovers, "disk <machine:name> recovers"},
    {Kind::kDiskFull, "disk <machine:name> is full"},
    {Kind::kDiskRoom, "disk <machine:name> has room"},
    {Kind::kSyncsFail, "disk <machine:name> fails <count:count> syncs"},
    {Kind::kSyncsLie, "disk <machine:name> lies about syncs"},
    {Kind::kImage, "image <machine:name> as <image:name>"},
    {Kind::kRestore, "restore <machine:name> from <image:name>"},
    {Kind::kWork, "<clients:count> clients work on <keys:count> keys"},
    {Kind::kWorkStop, "clients stop"},
    {Kind::kWait, "wait <time:time>"},
    {Kind::kGet, "client <client:count> gets <key:key>", true},
    {Kind::kPut, "client <client:count> puts <key:key> = <value:written>", true},
    {Kind::kRemove, "client <client:count> removes <key:key>", true},
    {Kind::kSwap, "client <client:count> swaps <key:key> from <expected:value> to <value:written>", true},
    {Kind::kAdd, "client <client:count> adds <delta:number> to <key:key>", true},
    {Kind::kGet, "client <client:count> gets <key:key> = <value:value>", true, Expected::kSuccess},
    {Kind::kAdd, "client <client:count> adds <delta:number> to <key:key> and gets <value:value>", true,
     Expected::kSuccess},
    {Kind::kSwap, "client <client:count> swaps <key:key> from <expected:value> to <value:written> and is refused", true,
     Expected::kRefusal},
    {Kind::kGet, "client <client:count> gets <key:key> and fails", true, Expected::kFailure},
    {Kind::kRemove, "client <client:count> removes <key:key> and fails", true, Expected::kFailure},
    {Kind::kAdd, "client <client:count> adds <delta:number> to <key:key> and fails", true, Expected::kFailure},
    {Kind::kSwap, "client <client:count> swaps <key:key> from <expected:value> to <value:written> and fails", true,
     Expected::kFailure},
    {Kind::kPut, "client <client:count> puts <key:key> = <value:written> and fails", true, Expected::kFailure},
};

struct Token {
  std::string_view word;
  int column = 0;
};

std::vector<Token> Tokens(std::string_view line) {
  std::vector<Token> tokens;
  line = line.substr(0, line.find('#'));
  for (size_t i = 0; i < line.size();) {
    if (std::isspace(static_cast<unsigned char>(line[i]))) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < line.size() && !std::isspace(static_cast<unsigned char>(line[end]))) ++end;
    tokens.push_back({line.substr(i, end - i), static_cast<int>(i) + 1});
    i = end;
  }
  return tokens;
}

// Parses all of `word` as a decimal number.
std::optional<int64_t> Decimal(std::string_view word) {
  int64_t number = 0;
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

// "500ms" in nanoseconds; with `sign`, "+3s" and "-1h" too.
std::optional<int64_t> Duration(std::string_view word, bool sign) {
  const bool negative = sign && word.starts_with('-');
  if (sign && (word.starts_with('-') || word.starts_with('+'))) word.remove_prefix(1);
  const size_t digits = std::min(word.find_first_not_of("0123456789"), word.size());
  const std::optional<int64_t> number = Decimal(word.substr(0, digits));
  static const std::map<std::string_view, int64_t> kUnits = {
      {"ns", 1},      {"us", kMicrosecond},  {"ms", kMillisecond},
      {"s", kSecond}, {"min", 60 * kSecond}, {"h", 3600 * kSecond}};
  auto unit = kUnits.find(word.substr(digits));
  int64_t product = 0;
  if (!number || unit == kUnits.end() || __builtin_mul_overflow(*number, unit->second, &product)) return std::nullopt;
  return negative ? -product : product;
}

bool IsName(std::string_view word) {
  return !word.empty() && std::islower(static_cast<unsigned char>(word[0])) &&
         std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::islower(c) || std::isdigit(c); });
}

bool IsValue(std::string_view word) {
  return std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
}

// Whether `word` is an argument of this type; sets its number.
bool Fits(std::string_view type, std::string_view word, int64_t* number) {
  std::optional<int64_t> parsed;
  if (type == "name") return IsName(word);
  if (type == "key" || type == "value") return IsValue(word);
  if (type == "written") return IsValue(word) && word != "nothing";
  if (type == "count" || type == "number") parsed = Decimal(word);
  if (type == "time") parsed = Duration(word, false);
  if (type == "shift") parsed = Duration(word, true);
  if (type == "rate" && word.ends_with("ppm")) {
    word.remove_suffix(3);
    if (word.starts_with('+')) word.remove_prefix(1);
    parsed = Decimal(word);
    if (parsed && (*parsed < -900'000 || *parsed > 1'000'000)) parsed.reset();
  }
  if (!parsed || (type == "count" && *parsed < 0)) return false;
  *number = *parsed;
  return true;
}

std::string Describe(std::string_view type) {
  static const std::map<std::string_view, std::string> kTypes = {
      {"name", "a name of lower-case letters and digits"},
      {"key", "a key of letters and digits"},
      {"value", "a value of letters and digits, or 'nothing'"},
      {"written", "a value of letters and digits"},
      {"count", "a number"},
      {"number", "a number"},
      {"time", "a time such as 500ms"},
      {"shift", "a time with a sign, such as -3s"},
      {"rate", "a rate such as +200ppm"}};
  return kTypes.at(type);
}

struct Slot {
  std::string name, type;  // of an argument; a literal word has no type
};
Slot SlotOf(std::string_view word) {
  if (!word.starts_with('<')) return {std::string(word), ""};
  const size_t colon = word.find(':');
  return {std::string(word.substr(1, colon - 1)), std::string(word.substr(colon + 1, word.size() - colon - 2))};
}

class LineParser {
 public:
  LineParser(int line, std::vector<Token> tokens, int end_column)
      : line_(line), tokens_(std::move(tokens)), end_column_(end_column) {}

  Result<Statement> Parse() {
    statement_.line = line_;
    for (const Token& t : tokens_) {
      if (!statement_.text.empty()) statement_.text += ' ';
      statement_.text += t.word;
    }
    RETURN_IF_ERROR(Prefixes());
    for (const Form& form : kForms) {
      if (Matches(form)) return std::move(statement_);
    }
    return Complain();
  }

 private:
  Status Fail(size_t token, const std::string& message) const {
    const int column = token < tokens_.size() ? tokens_[token].column : end_column_;
    return Error(Code::kInvalidArgument, "line {}, column {}: {}", line_, column, message);
  }
  std::string Found(size_t token) const {
    return token < tokens_.size() ? fmt::format("'{}'", tokens_[token].word) : "the end of the line";
  }

  Status Prefixes() {
    if (first_ < tokens_.size() && (tokens_[first_].word == "at" || tokens_[first_].word == "after")) {
      int64_t time = 0;
      if (first_ + 1 >= tokens_.size() || !Fits("time", tokens_[first_ + 1].word, &time)) {
        return Fail(first_ + 1, fmt::format("expected {}, but found {}", Describe("time"), Found(first_ + 1)));
      }
      (tokens_[first_].word == "at" ? statement_.at_ns : statement_.after_ns) = time;
      first_ += 2;
    }
    if (first_ < tokens_.size() && (tokens_[first_].word == "meanwhile" || tokens_[first_].word == "expect")) {
      statement_.meanwhile = tokens_[first_].word == "meanwhile";
      if (!statement_.meanwhile) statement_.expected = Expected::kSuccess;
      ++first_;
    }
    return {};
  }

  bool Allowed(const Form& form) const {
    const bool expecting = statement_.expected != Expected::kAnything;
    if (statement_.meanwhile || expecting) {
      if (!form.operation) return false;
    }
    return expecting || form.only_expected == Expected::kAnything;
  }

  // Fills in the arguments if all tokens match. Otherwise notes how far they did.
  bool Matches(const Form& form) {
    if (!Allowed(form)) return false;
    statement_.arguments.clear();
    const std::vector<Token> words = Tokens(form.pattern);
    for (size_t i = 0; i < std::max(words.size(), tokens_.size() - first_); ++i) {
      const size_t token = first_ + i;
      if (i >= words.size()) {
        Mismatch(token, "the end of the line");
        return false;
      }
      const Slot slot = SlotOf(words[i].word);
      Statement::Argument argument;
      const bool there = token < tokens_.size();
      const bool fits = there && (slot.type.empty() ? tokens_[token].word == slot.name
                                                    : Fits(slot.type, tokens_[token].word, &argument.number));
      if (!fits) {
        Mismatch(token, slot.type.empty() ? fmt::format("'{}'", slot.name) : Describe(slot.type));
        return false;
      }
      if (slot.type.empty()) continue;
      argument.word = tokens_[token].word;
      statement_.arguments[slot.name] = std::move(argument);
    }
    statement_.kind = form.kind;
    if (form.only_expected != Expected::kAnything) statement_.expected = form.only_expected;
    return true;
  }

  void Mismatch(size_t token, const std::string& wanted) {
    if (token > farthest_) wanted_.clear();
    farthest_ = std::max(farthest_, token);
    if (token == farthest_) wanted_.insert(wanted);
  }

  Status Complain() const {
    if (first_ >= tokens_.size()) return Fail(first_, "expected a statement, but found the end of the line");
    if (farthest_ == first_) {
      if (statement_.meanwhile || statement_.expected != Expected::kAnything) {
        return Fail(first_, fmt::format("expected an operation of a client, but found {}", Found(first_)));
      }
      return Fail(first_, fmt::format("no statement begins with {}", Found(first_)));
    }
    return Fail(farthest_, fmt::format("expected {}, but found {}", fmt::join(wanted_, " or "), Found(farthest_)));
  }

  const int line_;
  const std::vector<Token> tokens_;
  const int end_column_;
  size_t first_ = 0;  // the first token after the prefixes
  size_t farthest_ = 0;
  std::set<std::string> wanted_;
  Statement statement_;
};

}  // namespace

const std::string& Statement::Word(std::string_view name) const { return arguments.at(std::string(name)).word; }
int64_t Statement::Number(std::string_view name) const { return arguments.at(std::string(name)).number; }
std::optional<std::string> Statement::Value(std::string_view name) const {
  const std::string& word = Word(name);
  return word == "nothing" ? std::nullopt : std::optional<std::string>(word);
}

Result<std::vector<Statement>> ParseStory(std::string_view text) {
  std::vector<Statement> story;
  int number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    std::vector<Token> tokens = Tokens(line);
    if (tokens.empty()) continue;
    const int end_column = tokens.back().column + static_cast<int>(tokens.back().word.size());
    ASSIGN_OR_RETURN(Statement statement, LineParser(number, std::move(tokens), end_column).Parse());
    story.push_back(std::move(statement));
  }
  return story;
}

std::string StoryText(const std::vector<Statement>& story) {
  std::string text;
  for (const Statement& statement : story) text += statement.text + "\n";
  return text;
}

std::vector<std::string> StoryGrammar() {
  std::vector<std::string> lines;
  for (const Form& form : kForms) {
    std::string line = form.only_expected == Expected::kAnything ? "" : "expect";
    for (const Token& word : Tokens(form.pattern)) {
      if (!line.empty()) line += ' ';
      const Slot slot = SlotOf(word.word);
      line += slot.type.empty() ? slot.name : fmt::format("<{}>", slot.name);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace pando
