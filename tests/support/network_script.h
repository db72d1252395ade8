// RunNetworkScript: drives the network of a UringReactor through the steps of a script of bytes.
//
// One thread plays all parts: handlers on the reactor (they reply, pause, resume, and close as
// commanded), clients with plain sockets (they send commands, read slowly or not at all, close
// halves, close, reset), and connections that the reactor opens to itself. Receive buffers are few
// and small, and the limits on closing are milliseconds, so that short scripts cause shortages and
// timeouts.
//
// It CHECKs what every handler relies on: bytes arrive once and in order, OnClosed is the last call
// and comes once, and after the clients have gone no connection and no operation is left. The
// sanitizers detect everything else.
#pragma once

#include <cstdint>
#include <span>

namespace pando {

// A step is two bytes; an odd last byte is ignored. At most kMaxNetworkScriptSteps steps are
// executed.
inline constexpr size_t kMaxNetworkScriptSteps = 200;
void RunNetworkScript(std::span<const uint8_t> script);

}  // namespace pando
