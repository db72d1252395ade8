// ListenPatiently: listens on a port that another process may be about to leave.
//
// The kernel ends the requests of an io_uring after the process that made them, and only then closes what they poll. So
// the ports of a process that was killed may be taken for a moment after it has gone, and who starts it again at once,
// as a supervisor does, must not fail for that.
//
// Threads: one reactor.
#pragma once

#include <cstdint>

#include "src/io/reactor.h"
#include "src/io/timed_wait.h"

namespace pando {

inline constexpr Nanos kPortFreedNs = 2 * kSecond, kPortLookNs = 20 * kMillisecond;

// `listen()` returns the port, or why not; kAlreadyExists: it is taken. It is called until it says something else, for
// kPortFreedNs at most.
template <typename Listen>
Task<Result<uint16_t>> ListenPatiently(Reactor& reactor, Listen listen) {
  const Nanos until_ns = reactor.NowNs() + kPortFreedNs;
  while (true) {
    Result<uint16_t> port = listen();
    if (port.code() != Code::kAlreadyExists || reactor.NowNs() >= until_ns) co_return port;
    co_await Sleep(reactor, kPortLookNs);
  }
}

}  // namespace pando
