// Parses and formats network addresses in the form "host:port". An IPv6 address is written in
// brackets, as in "[::1]:7420", so that its own colons cannot be confused with the colon before the
// port.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace pando {

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;
};

// Returns kInvalidArgument, with the reason, when `text` is not a valid address. Port 0 is valid
// only when `any_port` is set: a server that listens on port 0 gets a free port.
Result<HostPort> ParseHostPort(std::string_view text, bool any_port = false);
// The inverse of ParseHostPort. Puts brackets around an IPv6 address.
std::string FormatHostPort(std::string_view host, uint16_t port);

}  // namespace pando
