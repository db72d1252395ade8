#include "tools/common/interrupts.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace pando::tools {

namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

volatile std::sig_atomic_t received = 0;
int wake_pipe[2] = {-1, -1};
std::atomic<int> shields = 0;

void OnSignal(int signal) {
  const int saved = errno;
  received = signal;
  const char byte = 0;
  if (::write(wake_pipe[1], &byte, 1) < 0) received = signal;  // a full pipe is readable already
  for (int s : kSignals) std::signal(s, SIG_DFL);              // the next signal ends the process
  errno = saved;
}

}  // namespace

void Interrupts::Install() {
  if (wake_pipe[0] >= 0) return;
  PCHECK(::pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) == 0);
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (int s : kSignals) {
    struct sigaction before {};
    PCHECK(::sigaction(s, nullptr, &before) == 0);
    if (before.sa_handler == SIG_IGN) continue;
    PCHECK(::sigaction(s, &action, nullptr) == 0);
  }
}

int Interrupts::Signal() { return shields > 0 ? 0 : received; }

int Interrupts::Received() { return received; }

bool Interrupts::Shielded() { return shields > 0; }

int Interrupts::Descriptor() { return wake_pipe[0]; }

bool Interrupts::Sleep(int64_t milliseconds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(std::max<int64_t>(milliseconds, 0));
  for (;;) {
    if (Signal() != 0) return false;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) return true;
    pollfd wake{shields > 0 ? -1 : wake_pipe[0], POLLIN, 0};  // poll skips a negative descriptor
    if (::poll(&wake, 1, static_cast<int>(std::min<int64_t>(left, INT_MAX))) < 0 && errno != EINTR) return true;
  }
}

Status Interrupts::Check() {
  if (Signal() == 0) return Status();
  return Error(Code::kAborted, "interrupted by SIG{}", sigabbrev_np(Signal()));
}

void Interrupts::EndBySignal(int signal) {
  std::signal(signal, SIG_DFL);
  std::raise(signal);
  std::_Exit(128 + signal);  // reached if the signal is blocked
}

Interrupts::Shield::Shield() { ++shields; }
Interrupts::Shield::~Shield() { --shields; }

}  // namespace pando::tools
