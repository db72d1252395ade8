#include "src/router/client_share.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <string>

#include "src/base/hash.h"

namespace pando {

namespace {

constexpr uint64_t kPrincipalSeed = 1, kHostSeed = 2;

std::string_view HostOf(std::string_view address) {
  std::string_view host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return host;
}

// The bytes of an address that say whose it is. What is no address stays as it is.
std::string NetworkOf(const std::string& host) {
  constexpr std::string_view kMappedV4("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
  constexpr size_t kV6NetworkBytes = 8;
  std::string bytes(sizeof(in_addr), '\0');
  if (inet_pton(AF_INET, host.c_str(), bytes.data()) == 1) return bytes;
  bytes.resize(sizeof(in6_addr));
  if (inet_pton(AF_INET6, host.c_str(), bytes.data()) != 1) return host;
  return bytes.starts_with(kMappedV4) ? bytes.substr(kMappedV4.size()) : bytes.substr(0, kV6NetworkBytes);
}

}  // namespace

uint64_t ShareOf(const Identity& identity) {
  uint64_t share = 0;
  if (!identity.principal.empty()) {
    share = Hash64(identity.principal, kPrincipalSeed);
  } else {
    share = Hash64(NetworkOf(std::string(HostOf(identity.address))), kHostSeed);
  }
  return share | 2;
}

}  // namespace pando
