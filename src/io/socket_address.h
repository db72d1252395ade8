// Numeric socket addresses. Except for "localhost", names must be resolved elsewhere, because name
// resolution blocks.
//
// Threads: plain values.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "src/base/result.h"

namespace pando {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  int family() const { return storage.ss_family; }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  uint16_t port() const;
  bool IsLoopback() const;
  std::string ToString() const;  // "127.0.0.1:51234", "[::1]:51234"

  // Parses a numeric IPv4 or IPv6 address, or "localhost" (127.0.0.1). Returns kInvalidArgument for
  // anything else.
  static Result<SocketAddress> Parse(const std::string& host, uint16_t port);
  static SocketAddress OfPeer(int fd);
  static SocketAddress OfSelf(int fd);
};

}  // namespace pando
