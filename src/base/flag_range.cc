#include "src/base/flag_range.h"

#include <gflags/gflags.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

namespace pando {

namespace {

std::string UnitOf(std::string_view flag) {
  constexpr std::pair<std::string_view, std::string_view> kUnits[] = {
      {"_mb_per_s", "MiB/s"}, {"_ms", "milliseconds"}, {"_s", "seconds"},   {"_h", "hours"},
      {"_mb", "MiB"},         {"_percent", "percent"}, {"_bytes", "bytes"},
  };
  for (const auto& [suffix, unit] : kUnits) {
    if (flag.ends_with(suffix)) return fmt::format(" of {}", unit);
  }
  return "";
}

// As gflags reads it: in decimal, or with 0x in hexadecimal.
template <typename T, T (*kRead)(const char*, char**, int)>
bool Reads(const std::string& text, long double least, long double most) {
  const bool hex = text.size() > 1 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
  char* end = nullptr;
  errno = 0;
  const T value = kRead(text.c_str(), &end, hex ? 16 : 10);
  return errno == 0 && !text.empty() && *end == '\0' && value >= least && value <= most;
}

bool IsNumber(const std::string& type, const std::string& text) {
  if (type == "double") {
    char* end = nullptr;
    (void)std::strtod(text.c_str(), &end);
    return !text.empty() && *end == '\0';
  }
  if (type.starts_with('u')) {
    const size_t first = text.find_first_not_of(' ');
    if (first != std::string::npos && text[first] == '-') return false;
    return Reads<unsigned long long, std::strtoull>(text, 0, type == "uint32" ? UINT32_MAX : UINT64_MAX);
  }
  return type == "int32" ? Reads<long long, std::strtoll>(text, INT32_MIN, INT32_MAX)
                         : Reads<long long, std::strtoll>(text, INT64_MIN, INT64_MAX);
}

bool IsNumberType(const std::string& type) {
  return type == "double" || type == "int32" || type == "uint32" || type == "int64" || type == "uint64";
}

Status CheckNumberFlag(const gflags::CommandLineFlagInfo& info, const std::string& text,
                       std::span<const FlagRange> ranges) {
  if (!IsNumberType(info.type) || IsNumber(info.type, text)) return {};
  const bool letters = std::any_of(text.begin(), text.end(), [](unsigned char c) { return std::isalpha(c) != 0; });
  std::string must = fmt::format("it must be a {}number{}{}", info.type == "double" ? "" : "whole ", UnitOf(info.name),
                                 letters ? ", without letters" : "");
  const auto range =
      std::find_if(ranges.begin(), ranges.end(), [&](const FlagRange& r) { return info.name == r.flag; });
  if (range != ranges.end()) must += ", " + AllowedText(*range);
  return Error(Code::kInvalidArgument, "--{}={}; {}", info.name, text, must);
}

}  // namespace

std::string AllowedText(const FlagRange& range) {
  const std::string most = range.most == INT64_MAX ? "" : fmt::format(" to {}", range.most);
  return fmt::format("{} {}{}{}", most.empty() ? "at least" : "from", range.least, most,
                     range.meaning == nullptr ? "" : fmt::format(", or {}", range.meaning));
}

Status CheckNumberFlags(int argc, char* const* argv, std::span<const FlagRange> ranges) {
  for (int i = 1; i < argc; ++i) {
    std::string_view argument = argv[i];
    if (argument == "--") return {};
    if (!argument.starts_with('-') || argument.size() < 2) continue;
    argument.remove_prefix(argument.starts_with("--") ? 2 : 1);
    const size_t equals = argument.find('=');
    gflags::CommandLineFlagInfo info;
    // gflags takes the name with dashes, too.
    std::string name(argument.substr(0, equals));
    std::replace(name.begin(), name.end(), '-', '_');
    if (!gflags::GetCommandLineFlagInfo(name.c_str(), &info)) continue;
    if (equals != std::string_view::npos) {
      RETURN_IF_ERROR(CheckNumberFlag(info, std::string(argument.substr(equals + 1)), ranges));
    } else if (info.type != "bool" && i + 1 < argc) {
      RETURN_IF_ERROR(CheckNumberFlag(info, argv[++i], ranges));
    }
  }
  return {};
}

}  // namespace pando
