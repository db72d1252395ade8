// Whose share a request takes, of the calls that take long or may wait (UP3), of their memory (LW2) and of the
// snapshots (RS3): that of the name which its client has proved, or else that of the client's host. A client gets no
// more by opening more connections.
//
// A share is kept only while calls of it are unanswered or its snapshots are open, so their number is bounded by those.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

#include "src/io/reactor.h"

namespace pando {

// Not 0 and not 1. An IPv6 host counts by the first half of its address: a host may take any second half.
uint64_t ShareOf(const Identity& identity);

}  // namespace pando
