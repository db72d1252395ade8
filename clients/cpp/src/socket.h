// TCP with deadlines. Thrift's TSocket has a timeout for each system call, so a peer that sends one byte a second would
// hold a call for ever; here a whole exchange has one deadline.
//
// Threads: one at a time, but any thread may call interrupt() while the Socket exists.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "failure.h"

namespace pando::client::detail {

struct Address {
  std::string host;
  std::string port;
  std::string text;  // as the user wrote it, for messages
};

// "host:port" or "[::1]:port". Throws std::invalid_argument.
Address parse_address(std::string_view text);

class Socket {
 public:
  // Throws Failure (nothing was sent).
  Socket(const Address& address, Deadline deadline);
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // Both throw Failure (sent).
  void write_all(std::string_view bytes, Deadline deadline);
  // At least one byte and at most `bytes`.
  std::size_t read_some(char* to, std::size_t bytes, Deadline deadline);

  // The peer has not closed the connection, and has sent nothing that nobody asked for.
  bool quiet() const;
  // Makes every wait end with a failure.
  void interrupt();

 private:
  void connect_to(const Address& address, Deadline deadline);
  void wait(short events, Deadline deadline, const char* what) const;

  int fd_ = -1;
  std::string peer_;
};

}  // namespace pando::client::detail
