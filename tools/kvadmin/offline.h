// RunOffline: runs one coroutine on its own reactor, for commands that read files without a running
// node.
//
// Threads: the reactor runs on the calling thread. The call blocks until the coroutine returns.
#pragma once

#include <functional>

#include "src/io/uring_reactor.h"
#include "tools/kvadmin/exit_codes.h"

namespace pando::admin {

namespace detail {

inline Task<void> RunThenStop(Reactor* reactor, Task<Result<ExitCode>> body, Result<ExitCode>* result) {
  // Suspends for the whole command. Reactor::Run does not return before Stop.
  *result = co_await body;
  reactor->Stop();
}

}  // namespace detail

// `start` creates the coroutine. The coroutine's arguments must outlive the call.
inline Result<ExitCode> RunOffline(const std::function<Task<Result<ExitCode>>(Reactor&)>& start) {
  ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, MakeUringReactor(UringOptions{}));
  Result<ExitCode> result(Status(Code::kAborted, "the event loop ended before the command did"));
  TaskGroup tasks;
  tasks.Spawn(detail::RunThenStop(reactor.get(), start(*reactor), &result));
  reactor->Run();
  return result;
}

}  // namespace pando::admin
