// WaitUntil waits on a WaitQueue for a condition, but no longer than until a deadline.
//
// Threads: one reactor.
#pragma once

#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"

namespace pando {

// Waits until done() is true, which is looked at whenever `queue` is notified, or until the
// deadline. Returns done(). At the deadline everybody who waits on the queue looks again.
template <typename Done>
Task<bool> WaitUntil(Reactor& reactor, WaitQueue& queue, Nanos deadline_ns, Done done) {
  struct Alarm : Timer {
    WaitQueue* queue = nullptr;
  } alarm;
  alarm.queue = &queue;
  alarm.on_fire = [](Timer* t) { static_cast<Alarm*>(t)->queue->NotifyAll(); };
  reactor.ArmTimer(&alarm, deadline_ns);
  while (!done() && reactor.NowNs() < deadline_ns) co_await queue.Wait();
  reactor.CancelTimer(&alarm);
  co_return done();
}

}  // namespace pando
