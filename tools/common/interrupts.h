// Interrupts: turns Ctrl-C, SIGTERM and SIGHUP into a state that a command can query, so that it
// can clean up and say what it did. The first signal is remembered, and ends waits (in Sleep, or on
// Descriptor()). A second signal ends the process at once. After the cleanup, the process should
// call EndBySignal(), so that its caller sees why it ended.
//
// A command that has nothing to clean up does not call Install(), and the signal itself ends it.
//
// Threads: any, except Install() and EndBySignal(). The state is per process, like the signals themselves, so a Shield
// also holds for the other threads.
#pragma once

#include <cstdint>

#include "src/base/result.h"

namespace pando::tools {

class Interrupts {
 public:
  // Idempotent. A signal that the parent process set to be ignored (nohup) stays ignored.
  static void Install();
  // The signal that was received, or 0. Always 0 while a Shield exists.
  static int Signal();
  static bool Shielded();
  static int Received();  // like Signal(), but not hidden by a Shield
  // Becomes readable when a signal is received. -1 before Install().
  static int Descriptor();
  // Returns false if a signal ended the wait early.
  static bool Sleep(int64_t milliseconds);
  // kAborted if a signal was received and no Shield exists.
  static Status Check();
  // Ends the process by `signal`, with the default action.
  [[noreturn]] static void EndBySignal(int signal);

  // While one exists, Signal(), Sleep() and Check() ignore the signal. For the requests of a
  // cleanup.
  class Shield {
   public:
    Shield();
    Shield(const Shield&) = delete;
    Shield& operator=(const Shield&) = delete;
    ~Shield();
  };
};

}  // namespace pando::tools
