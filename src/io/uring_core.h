// UringCore is what the parts of a UringReactor (disk, network, loop) share: the io_uring with its
// submission entries, the tags that identify the owner of a completion, the timers, and the clock
// of the turn.
//
// Threads: one reactor.
#pragma once

#include <liburing.h>

#include <cstdint>

#include "src/io/reactor.h"
#include "src/io/timer_heap.h"
#include "src/io/turn_queues.h"

namespace pando {

// Identifies the owner of a completion. The tag is in the low three bits of the user data; the rest
// is a pointer to the owner.
enum class UringTag : uint64_t { kIoOp, kReceive, kSend, kAccept, kConnect, kWake, kIgnore, kHangup };
inline constexpr uint64_t kUringTagMask = 7;

struct UringStats {
  uint64_t turns_total = 0, waits_total = 0, completions_total = 0;
  uint64_t receive_buffer_shortages_total = 0;  // receives that ended with ENOBUFS
  uint64_t buffer_registrations_refused_total = 0;
  uint64_t accept_failures_total = 0;  // no descriptor or no memory
  uint64_t accept_pauses_total = 0;    // no place in a ConnectionBudget
  uint64_t connections = 0, connections_total = 0;
  uint64_t disk_ops_total = 0;
  unsigned setup_flags = 0;  // the IORING_SETUP_* flags that the kernel accepted
};

struct UringCore {
  io_uring ring{};
  TimerHeap timers;
  TurnQueues queues;
  Nanos now_ns = 0;
  UringStats stats;

  // Returns a free submission entry. Submits the queued entries first when several are waiting or
  // none is free. Prepare the entry first, then call Own.
  io_uring_sqe* Sqe();
  template <typename Owner>
  static uint64_t UserData(Owner* owner, UringTag tag) {
    static_assert(alignof(Owner) >= 8, "the tag needs the low bits of the pointer");
    return reinterpret_cast<uint64_t>(owner) | static_cast<uint64_t>(tag);
  }
  template <typename Owner>
  static void Own(io_uring_sqe* sqe, Owner* owner, UringTag tag) {
    io_uring_sqe_set_data64(sqe, UserData(owner, tag));
  }
  // Asks the kernel to cancel the operation with this user data. The operation then completes with
  // -ECANCELED, or with its regular result if it finishes first.
  void Cancel(uint64_t user_data);
};

}  // namespace pando
