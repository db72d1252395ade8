#include "src/base/address.h"

#include <charconv>

namespace pando {

namespace {

Status Wrong(std::string_view text, std::string_view why) {
  return Error(Code::kInvalidArgument, "\"{}\" is not host:port, for example 127.0.0.1:7420 or [::1]:7420: {}", text,
               why);
}

}  // namespace

Result<HostPort> ParseHostPort(std::string_view text, bool any_port) {
  if (text.find("://") != std::string_view::npos) return Wrong(text, "leave out what is before the host");
  if (text.find_first_of("; \t") != std::string_view::npos)
    return Wrong(text, "several addresses are separated by commas");
  HostPort address;
  size_t colon = text.rfind(':');
  if (text.starts_with('[')) {
    const size_t bracket = text.find(']');
    if (bracket == std::string_view::npos) return Wrong(text, "the bracket is not closed");
    if (bracket + 1 != colon) return Wrong(text, "the closing bracket must be followed by the port");
    address.host = text.substr(1, bracket - 1);
  } else {
    if (colon == std::string_view::npos) return Wrong(text, "the port is missing");
    address.host = text.substr(0, colon);
    if (address.host.find(':') != std::string::npos) return Wrong(text, "an IPv6 address must be written in brackets");
  }
  if (address.host.empty()) return Wrong(text, "the host is missing");
  if (address.host.find_first_of("[]") != std::string::npos) return Wrong(text, "the host has a bracket in it");
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (error != std::errc() || stop != end || (address.port == 0 && !any_port)) {
    return Wrong(text,
                 any_port ? "the port must be a number from 0 to 65535" : "the port must be a number from 1 to 65535");
  }
  return address;
}

std::string FormatHostPort(std::string_view host, uint16_t port) {
  const bool brackets = host.find(':') != std::string_view::npos;
  return brackets ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

}  // namespace pando
