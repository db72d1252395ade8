// Addresses as people type them: "host:port". An IPv6 address is written in brackets, as in "[::1]:7420", because its
// own colons could not be told from the one before the port.
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

// kInvalidArgument says what is wrong with `text`. Port 0 is accepted only with `any_port` (a server takes a free one).
Result<HostPort> ParseHostPort(std::string_view text, bool any_port = false);
// The inverse: puts brackets around an IPv6 address.
std::string FormatHostPort(std::string_view host, uint16_t port);

}  // namespace pando
