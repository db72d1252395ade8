// The values of the conformance suite: expressions, variables, and what matches what (clients/conformance/README.md).
// Bytes are JSON binaries.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace conformance {

using Json = nlohmann::json;
using Variables = std::map<std::string, Json>;

// A step that did not do what it should.
struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

Json bytes(std::string_view text);
// The bytes of a binary or a text.
std::string to_bytes(const Json& value);

// The expression, or an object or list of them, with its variables.
Json evaluate(const Json& expression, const Variables& variables);
// With the variables replaced, and all else as it is: for the control server.
Json substitute(const Json& value, const Variables& variables);

bool matches(const Json& expected, const Json& actual, const Variables& variables);
// The part of a value: "rows.0.key", or "." for the whole.
Json part_of(const Json& value, const std::string& path);
// For people: bytes as text or hex, and cut.
std::string show(const Json& value);

}  // namespace conformance
