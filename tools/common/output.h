// Output: the one way from a tool to standard output and standard error.
//
// A write to standard output can fail: the disk is full, or the reader of a pipe has gone. The first failure is
// remembered; what is printed after it is dropped. So commands print freely, those that print a lot look at
// OutputStatus() now and then and stop, and the end of main asks FlushOutput(), which is the only place that decides
// whether everything arrived. Standard error is different: nobody can be told that it failed, so that is ignored.
//
// Threads: one.
#pragma once

#include <fmt/format.h>

#include <string_view>

#include "src/base/result.h"

namespace pando::tools {

// To be called first in main: SIGPIPE becomes an error of the write, and descriptors 0 to 2 are open, so that a socket
// or a file cannot take the place of a standard stream that the caller closed.
void PrepareStandardStreams();

void WriteOutput(std::string_view bytes);
void WriteNote(std::string_view text);  // standard error

template <typename... Args>
void Print(fmt::format_string<Args...> format, Args&&... args) {
  WriteOutput(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void PrintNote(fmt::format_string<Args...> format, Args&&... args) {
  WriteNote(fmt::format(format, std::forward<Args>(args)...));
}

// Whether everything that was printed so far was accepted.
Status OutputStatus();
// Hands over what is buffered, too.
Status FlushOutput();
// True when the failure is that the reader of a pipe has gone, as in `... | head -1`: nothing to complain about.
bool OutputReaderGone();

}  // namespace pando::tools
