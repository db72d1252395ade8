// Offline: runs one coroutine on a reactor of its own, for the commands that read a data directory without a node.
#pragma once

#include <functional>

#include "src/io/uring_reactor.h"
#include "tools/kvadmin/exit_codes.h"

namespace pando::admin {

namespace detail {

inline Task<void> RunThenStop(Reactor* reactor, Task<Result<ExitCode>> body, Result<ExitCode>* result) {
  *result = co_await body;
  reactor->Stop();
}

}  // namespace detail

// `start` makes the coroutine; its arguments must outlive the call.
inline Result<ExitCode> RunOffline(const std::function<Task<Result<ExitCode>>(Reactor&)>& start) {
  ASSIGN_OR_RETURN(std::unique_ptr<Reactor> reactor, MakeUringReactor(UringOptions{}));
  Result<ExitCode> result(Status(Code::kAborted, "the loop ended early"));
  TaskGroup tasks;
  tasks.Spawn(detail::RunThenStop(reactor.get(), start(*reactor), &result));
  reactor->Run();
  return result;
}

}  // namespace pando::admin
