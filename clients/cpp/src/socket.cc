#include "socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>

namespace pando::client::detail {
namespace {

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace

Address parse_address(std::string_view text) {
  Address address;
  address.text = text;
  const std::size_t colon = text.rfind(':');
  if (colon != std::string_view::npos) {
    std::string_view host = text.substr(0, colon);
    address.port = text.substr(colon + 1);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    } else if (host.find(':') != std::string_view::npos) {
      host = {};  // an IPv6 address without brackets
    }
    address.host = host;
  }
  const bool digits =
      std::all_of(address.port.begin(), address.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (address.host.empty() || address.port.empty() || !digits || address.port.size() > 5) {
    throw std::invalid_argument("the address \"" + address.text + "\" is not of the form host:port or [IPv6]:port");
  }
  return address;
}

Socket::Socket(const Address& address, Deadline deadline) : peer_(address.text) {
  try {
    connect_to(address, deadline);
  } catch (Failure& failure) {
    if (fd_ >= 0) ::close(fd_);
    failure.info.applied = Applied::kNo;
    throw;
  }
}

Socket::~Socket() { ::close(fd_); }

void Socket::connect_to(const Address& address, Deadline deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  // The resolver knows no deadline. Numeric addresses and /etc/hosts do not wait.
  if (const int error = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found); error != 0) {
    throw transport_failure("cannot resolve " + peer_ + ": " + ::gai_strerror(error), false);
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  int error = 0;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    fd_ = ::socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd_ < 0) {
      error = errno;
      continue;
    }
    error = ::connect(fd_, info->ai_addr, info->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      wait(POLLOUT, deadline, "connect");
      socklen_t size = sizeof error;
      ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0) break;
    ::close(fd_);
    fd_ = -1;
  }
  if (fd_ < 0) throw transport_failure("cannot connect to " + peer_ + ": " + error_text(error), false);
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

void Socket::wait(short events, Deadline deadline, const char* what) const {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) throw transport_failure(peer_ + " did not " + what + " in time", true);
    pollfd waiter{fd_, events, 0};
    const int ready = ::poll(&waiter, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (ready > 0) return;  // also for an error, which the next system call will tell
    if (ready < 0 && errno != EINTR) throw transport_failure("poll of " + peer_ + ": " + error_text(errno), true);
  }
}

void Socket::write_all(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      wait(POLLOUT, deadline, "take the request");
    } else if (errno != EINTR) {
      throw transport_failure("cannot send to " + peer_ + ": " + error_text(errno), true);
    }
  }
}

std::size_t Socket::read_some(char* to, std::size_t bytes, Deadline deadline) {
  for (;;) {
    wait(POLLIN, deadline, "answer");
    const ssize_t got = ::recv(fd_, to, bytes, 0);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0) throw transport_failure(peer_ + " closed the connection", true);
    if (errno != EAGAIN && errno != EINTR) {
      throw transport_failure("cannot receive from " + peer_ + ": " + error_text(errno), true);
    }
  }
}

bool Socket::quiet() const {
  char byte = 0;
  return ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

void Socket::interrupt() { ::shutdown(fd_, SHUT_RDWR); }

}  // namespace pando::client::detail
