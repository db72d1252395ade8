#include "tools/common/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

namespace pando::tools {

namespace {

int first_error = 0;  // errno of the first write that failed

void Remember(bool ok) {
  if (!ok && first_error == 0) first_error = errno != 0 ? errno : EIO;
}

}  // namespace

void PrepareStandardStreams() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  // The modes are reversed on purpose: reading from standard input, and writing to standard output
  // or standard error, must still fail.
  const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1) continue;
    // fd is the lowest free descriptor, so open returns it.
    if (::open("/dev/null", modes[fd]) != fd) return;
  }
}

void WriteOutput(std::string_view bytes) {
  if (first_error != 0) return;
  errno = 0;
  Remember(std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size());
}

void WriteNote(std::string_view text) {
  // There is nowhere left to report a failure.
  if (std::fwrite(text.data(), 1, text.size(), stderr) != text.size()) return;
}

Status OutputStatus() {
  if (first_error == 0) return Status();
  return ErrnoError(first_error, "write to standard output");
}

Status FlushOutput() {
  errno = 0;
  Remember(std::fflush(stdout) == 0);
  return OutputStatus();
}

bool OutputReaderGone() { return first_error == EPIPE; }

}  // namespace pando::tools
