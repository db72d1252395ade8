// Process: a server process that kvbench starts, signals and stops. ScratchDirectory: where it keeps its data.
// Both are known to CleanUpOnSignals, so that an interrupted run leaves neither processes nor files.
//
// Threads: the main thread, which must also be the one that starts processes: they are killed when their parent
// thread ends.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/result.h"

namespace pando::bench {

inline constexpr int kStartTimeoutMs = 60'000;
inline constexpr int kPollMs = 20;

class ScratchDirectory {
 public:
  static Result<ScratchDirectory> Make(const std::string& parent);
  ScratchDirectory() = default;
  ScratchDirectory(ScratchDirectory&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ScratchDirectory& operator=(ScratchDirectory&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ~ScratchDirectory();
  const std::string& path() const { return path_; }

 private:
  explicit ScratchDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

class Process {
 public:
  Process() = default;
  Process(Process&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), wait_status_(other.wait_status_), log_path_(std::move(other.log_path_)) {}
  Process& operator=(Process&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(wait_status_, other.wait_status_);
    std::swap(log_path_, other.log_path_);
    return *this;
  }
  ~Process() { Stop(); }

  // Starts the program, with its output appended to `log_path`; `core` < 0: not pinned. The process before must have
  // ended.
  Status Start(const std::vector<std::string>& args, const std::string& log_path, int core);
  // Start, and waits until it accepts connections at the port.
  Status StartListening(const std::vector<std::string>& args, const std::string& log_path, int core, uint16_t port);
  // Asks it to stop (SIGTERM), and kills it if it has not after half a minute.
  void Stop();
  bool Ended();  // and the pid is forgotten
  void WaitEnded();
  void Signal(int signal) const;
  pid_t pid() const { return pid_; }                // -1: it does not run
  int wait_status() const { return wait_status_; }  // of waitpid, once it has ended
  double CpuSeconds() const;                        // user and system time so far, with its children that still run
  std::string LogTail() const;

 private:
  bool Reap(int flags);

  pid_t pid_ = -1;
  int wait_status_ = 0;
  std::string log_path_;
};

std::vector<pid_t> ChildrenOf(pid_t pid);

// A port of the loopback interface that nobody listens at. It is none that the kernel gives to outgoing connections:
// a client that tries again and again to reach a server that is down would otherwise take its port, and even reach
// itself. Another process may take it before the server does; the server's start then fails.
Result<uint16_t> FreePort();
bool Accepts(uint16_t port);
void SleepMs(int64_t ms);

// Makes SIGINT and SIGTERM kill the processes that kvbench started, remove their directories, and end
// the process with exit code 130. Call it before the process creates any other thread.
void CleanUpOnSignals();

// A socket, closed by the destructor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};
// Connects to a port of the loopback interface. Its reads and writes fail after `timeout_ms`.
Result<Socket> ConnectLoopback(uint16_t port, int64_t timeout_ms);

}  // namespace pando::bench
