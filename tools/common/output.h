// Output: every tool writes to standard output and standard error through these functions.
//
// A write to standard output can fail, because the disk is full or the reader of a pipe has gone.
// The first failure is remembered, and later output is dropped. So a command prints without
// checking each call. A command that prints a lot checks OutputStatus() now and then, and stops.
// The end of main calls FlushOutput(), which alone decides whether all output arrived. A failure of
// standard error is ignored, because there is nowhere left to report it.
//
// Threads: one.
#pragma once

#include <fmt/format.h>

#include <string_view>

#include "src/base/result.h"

namespace pando::tools {

// Must be called first in main. It ignores SIGPIPE and SIGXFSZ, so that a write to a closed pipe or
// beyond the size limit of files (ulimit -f) returns an error. It opens those of the descriptors 0
// to 2 that the caller closed, so that no socket or file takes their place.
void PrepareStandardStreams();

void WriteOutput(std::string_view bytes);
void WriteNote(std::string_view text);  // to standard error

template <typename... Args>
void Print(fmt::format_string<Args...> format, Args&&... args) {
  WriteOutput(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void PrintNote(fmt::format_string<Args...> format, Args&&... args) {
  WriteNote(fmt::format(format, std::forward<Args>(args)...));
}

// The first failure of standard output so far, or OK. Buffered output may still fail.
Status OutputStatus();
// Writes out what is buffered, and returns OutputStatus().
Status FlushOutput();
// True if the failure is that the reader of a pipe has gone, as in `... | head -1`. This is not
// worth an error message.
bool OutputReaderGone();

}  // namespace pando::tools
