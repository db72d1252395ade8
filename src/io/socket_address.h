// Numeric socket addresses. Names are resolved elsewhere (resolution blocks); only "localhost" is known here.
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

  // IPv4 or IPv6 in numbers, or "localhost" (127.0.0.1). kInvalidArgument for anything else.
  static Result<SocketAddress> Parse(const std::string& host, uint16_t port);
  static SocketAddress OfPeer(int fd);
  static SocketAddress OfSelf(int fd);
};

}  // namespace pando
