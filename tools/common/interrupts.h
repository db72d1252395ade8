// Interrupts: Ctrl-C, SIGTERM and SIGHUP as something a command can look at, so that it can clean up and say what it
// did. The first signal is remembered, and ends waits (in Sleep, on descriptor()). A second one ends the process at
// once. After the cleanup the process should end itself by EndBySignal(), so that its caller sees why it ended.
//
// Commands that have nothing to clean up do not install it, and are ended by the signal itself.
//
// Threads: one; there is one state per process, as signals have.
#pragma once

#include <cstdint>

#include "src/base/result.h"

namespace pando::tools {

class Interrupts {
 public:
  // Idempotent. A signal that the caller has told this process to ignore (nohup) stays ignored.
  static void Install();
  // The signal that came, or 0. Always 0 inside a Shield.
  static int Signal();
  static bool Shielded();
  static int Received();  // also inside a Shield
  // Readable once a signal came; -1 before Install.
  static int Descriptor();
  // False when a signal cut it short.
  static bool Sleep(int64_t milliseconds);
  // kAborted when a signal came.
  static Status Check();
  // Ends the process by `signal`, with the default action.
  [[noreturn]] static void EndBySignal(int signal);

  // While one exists, the signal that came is not seen: for the requests of a cleanup.
  class Shield {
   public:
    Shield();
    Shield(const Shield&) = delete;
    Shield& operator=(const Shield&) = delete;
    ~Shield();
  };
};

}  // namespace pando::tools
