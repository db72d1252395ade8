#include "conformance_values.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <set>

namespace conformance {
namespace {

std::string from_hex(const std::string& hex) {
  std::string result;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    result.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return result;
}

std::string to_hex(const Json::binary_t& binary) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (const std::uint8_t byte : binary) result.append({kDigits[byte >> 4], kDigits[byte & 15]});
  return result;
}

Json numbered(const Json& of) {
  Json list = Json::array();
  const std::int64_t from = of.at("from"), to = of.at("to");
  const std::size_t digits = of.at("digits");
  for (std::int64_t i = from;; i += from <= to ? 1 : -1) {
    std::string number = std::to_string(i);
    if (number.size() < digits) number.insert(0, digits - number.size(), '0');
    list.push_back(bytes(of.at("prefix").get<std::string>() + number));
    if (i == to) return list;
  }
}

std::int64_t now_ms() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

bool is_expression(const Json& value) {
  static const std::set<std::string> kNames = {"hex", "utf8", "repeat", "concat", "int", "numbered", "now_ms", "plus"};
  if (!value.is_object() || value.empty() || !kNames.contains(value.begin().key())) return false;
  return value.size() == 1 || (value.contains("repeat") && value.contains("times") && value.size() == 2);
}

Json evaluate_expression(const Json& value, const Variables& variables) {
  if (value.contains("hex")) return bytes(from_hex(value["hex"]));
  if (value.contains("utf8")) return bytes(value["utf8"].get<std::string>());
  if (value.contains("int")) return std::stoll(value["int"].get<std::string>());
  if (value.contains("numbered")) return numbered(value["numbered"]);
  if (value.contains("now_ms")) return now_ms() + value["now_ms"].get<std::int64_t>();
  std::string text;
  std::int64_t sum = 0;
  if (value.contains("repeat")) {
    for (std::int64_t i = 0; i < value["times"].get<std::int64_t>(); ++i) text += value["repeat"].get<std::string>();
    return bytes(text);
  }
  if (value.contains("plus")) {
    for (const Json& item : value["plus"]) sum += evaluate(item, variables).get<std::int64_t>();
    return sum;
  }
  for (const Json& item : value["concat"]) {
    const Json piece = evaluate(item, variables);
    text += piece.is_number() ? std::to_string(piece.get<std::int64_t>()) : to_bytes(piece);
  }
  return bytes(text);
}

const Json* variable(const Json& value, const Variables& variables) {
  if (!value.is_string()) return nullptr;
  const std::string& text = value.get_ref<const std::string&>();
  if (text.size() < 2 || text[0] != '$') return nullptr;
  const auto found = variables.find(text.substr(1));
  if (found == variables.end()) throw Mismatch("there is no variable " + text);
  return &found->second;
}

bool is_matcher(const Json& value) {
  static const std::set<std::string> kNames = {"any",    "gt",  "gte",      "lt",        "lte",    "size",
                                               "length", "not", "contains", "unordered", "one_of", "each"};
  if (!value.is_object() || value.empty()) return false;
  return std::all_of(value.items().begin(), value.items().end(),
                     [](const auto& item) { return kNames.contains(item.key()); });
}

bool compare(const std::string& name, const Json& limit, const Json& actual, const Variables& variables) {
  const Json other = evaluate(limit, variables);
  if (!actual.is_number() || !other.is_number()) return false;
  const auto a = actual.get<std::int64_t>(), b = other.get<std::int64_t>();
  if (name == "gt") return a > b;
  if (name == "gte") return a >= b;
  if (name == "lt") return a < b;
  return a <= b;
}

bool matches_unordered(const Json& expected, Json actual, const Variables& variables) {
  if (!actual.is_array() || actual.size() != expected.size()) return false;
  for (const Json& item : expected) {
    const auto found = std::find_if(actual.begin(), actual.end(),
                                    [&](const Json& candidate) { return matches(item, candidate, variables); });
    if (found == actual.end()) return false;
    actual.erase(found);
  }
  return true;
}

bool matches_one(const std::string& name, const Json& with, const Json& actual, const Variables& variables) {
  if (name == "any") return !actual.is_null();
  if (name == "not") return !matches(with, actual, variables);
  if (name == "size") {
    return actual.is_binary() && matches(with, actual.get_binary().size(), variables);
  }
  if (name == "length") return actual.is_array() && matches(with, actual.size(), variables);
  if (name == "contains") return actual.is_string() && actual.get<std::string>().find(with) != std::string::npos;
  if (name == "unordered") return matches_unordered(with, actual, variables);
  if (name == "one_of") {
    return std::any_of(with.begin(), with.end(), [&](const Json& item) { return matches(item, actual, variables); });
  }
  if (name == "each") {
    return actual.is_array() &&
           std::all_of(actual.begin(), actual.end(), [&](const Json& item) { return matches(with, item, variables); });
  }
  return compare(name, with, actual, variables);
}

}  // namespace

Json bytes(std::string_view text) { return Json::binary(std::vector<std::uint8_t>(text.begin(), text.end())); }

std::string to_bytes(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_binary()) throw Mismatch("these are no bytes: " + show(value));
  const Json::binary_t& binary = value.get_binary();
  return {binary.begin(), binary.end()};
}

Json evaluate(const Json& expression, const Variables& variables) {
  if (const Json* value = variable(expression, variables)) return *value;
  if (is_expression(expression)) return evaluate_expression(expression, variables);
  if (!expression.is_structured()) return expression;
  Json result = expression;
  for (Json& item : result) item = evaluate(item, variables);
  return result;
}

Json substitute(const Json& value, const Variables& variables) {
  if (const Json* found = variable(value, variables)) {
    return found->is_binary() ? Json{{"hex", to_hex(found->get_binary())}} : *found;
  }
  if (!value.is_structured()) return value;
  Json result = value;
  for (Json& item : result) item = substitute(item, variables);
  return result;
}

bool matches(const Json& expected, const Json& actual, const Variables& variables) {
  if (const Json* value = variable(expected, variables)) return matches(*value, actual, {});
  if (is_expression(expected)) return matches(evaluate(expected, variables), actual, variables);
  if (is_matcher(expected)) {
    return std::all_of(expected.items().begin(), expected.items().end(),
                       [&](const auto& item) { return matches_one(item.key(), item.value(), actual, variables); });
  }
  if (expected.is_object()) {
    return actual.is_object() && std::all_of(expected.items().begin(), expected.items().end(), [&](const auto& item) {
             return actual.contains(item.key()) && matches(item.value(), actual[item.key()], variables);
           });
  }
  if (expected.is_array()) {
    if (!actual.is_array() || actual.size() != expected.size()) return false;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (!matches(expected[i], actual[i], variables)) return false;
    }
    return true;
  }
  if (expected.is_string() && actual.is_binary()) return to_bytes(expected) == to_bytes(actual);
  return expected == actual;
}

Json part_of(const Json& value, const std::string& path) {
  if (path == ".") return value;
  const std::size_t dot = path.find('.');
  const std::string name = path.substr(0, dot);
  const Json& part = value.is_array() ? value.at(std::stoul(name)) : value.at(name);
  return dot == std::string::npos ? part : part_of(part, path.substr(dot + 1));
}

std::string show(const Json& value) {
  const auto readable = [](const auto& self, const Json& from) -> Json {
    if (from.is_binary()) {
      const std::string text = to_bytes(from).substr(0, 60);
      const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
      return ascii ? Json(text) : Json{{"hex", to_hex(from.get_binary()).substr(0, 120)}};
    }
    if (!from.is_structured()) return from;
    Json result = from;
    for (Json& item : result) item = self(self, item);
    return result;
  };
  std::string text = readable(readable, value).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 2000) text = text.substr(0, 2000) + "...";
  return text;
}

}  // namespace conformance
