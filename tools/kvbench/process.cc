#include "tools/kvbench/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "src/base/check.h"

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr int kStopTimeoutMs = 30'000;
constexpr int kInterrupted = 130;  // the exit code with which a shell reports SIGINT
// Below the range from which Linux takes the ports of outgoing connections, 32768 to 60999.
constexpr uint16_t kFirstPort = 20'000, kPorts = 12'000;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Runs in the child between fork and exec, so it may only call async-signal-safe functions.
[[noreturn]] void BecomeServer(const std::vector<char*>& argv, const char* log_path, int core, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  if (core >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(core), &set);
    if (::sched_setaffinity(0, sizeof(set), &set) != 0) ::_exit(126);
  }
  int log = ::open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, 0);
  ::dup2(log, 1);
  ::dup2(log, 2);
  ::execvp(argv[0], argv.data());
  ::dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
  ::_exit(127);
}

// What a signal must clean up. Shared with the signal thread.
struct Registry {
  std::mutex mutex;
  std::set<pid_t> processes;
  std::set<std::string> directories;
};
Registry& Started() {
  static Registry registry;
  return registry;
}

void WaitForSignals(sigset_t signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  Registry& registry = Started();
  std::lock_guard lock(registry.mutex);  // held until exit, so that no server is started any more
  for (pid_t pid : registry.processes) {
    // A node's guard would ask its node to stop if it were killed alone.
    for (pid_t child : ChildrenOf(pid)) ::kill(child, SIGKILL);
    ::kill(pid, SIGKILL);
  }
  for (const std::string& directory : registry.directories) {
    std::error_code ignored;
    fs::remove_all(directory, ignored);
  }
  ::_exit(kInterrupted);
}

double CpuSecondsOf(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(in, line);
  const size_t after_name = line.rfind(')');
  if (after_name == std::string::npos) return 0;
  unsigned long user = 0, system = 0;
  std::sscanf(line.c_str() + after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace

Result<ScratchDirectory> ScratchDirectory::Make(const std::string& parent) {
  std::string path = parent + "/kvbench-XXXXXX";
  std::lock_guard lock(Started().mutex);
  if (::mkdtemp(path.data()) == nullptr) return ErrnoError(errno, "create a directory in {}", parent);
  Started().directories.insert(path);
  return ScratchDirectory(std::move(path));
}

ScratchDirectory::~ScratchDirectory() {
  if (path_.empty()) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  std::lock_guard lock(Started().mutex);
  Started().directories.erase(path_);
}

Status Process::Start(const std::vector<std::string>& args, const std::string& log_path, int core) {
  CHECK_LT(pid_, 0) << "it runs already";
  std::vector<char*> argv;
  argv.reserve(args.size() + 1);
  for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  log_path_ = log_path;
  const pid_t parent = ::getpid();
  std::lock_guard lock(Started().mutex);
  pid_ = ::fork();
  if (pid_ < 0) return ErrnoError(errno, "start {}", args[0]);
  if (pid_ == 0) BecomeServer(argv, log_path.c_str(), core, parent);
  Started().processes.insert(pid_);
  return Status();
}

Status Process::StartListening(const std::vector<std::string>& args, const std::string& log_path, int core,
                               uint16_t port) {
  RETURN_IF_ERROR(Start(args, log_path, core));
  for (int waited = 0; waited < kStartTimeoutMs; waited += kPollMs) {
    if (Ended()) {
      return Error(Code::kUnavailable, "{} ended during its start; the end of its log: {}", args[0], LogTail());
    }
    if (Accepts(port)) return Status();
    SleepMs(kPollMs);
  }
  return Error(Code::kDeadline, "{} does not listen on port {} after {} s; the end of its log: {}", args[0], port,
               kStartTimeoutMs / 1000, LogTail());
}

// Once waitpid succeeds the kernel may use the pid again, so the registry must forget it under the same lock.
bool Process::Reap(int flags) {
  std::lock_guard lock(Started().mutex);
  if (::waitpid(pid_, &wait_status_, flags) != pid_) return false;
  Started().processes.erase(pid_);
  pid_ = -1;
  return true;
}

bool Process::Ended() { return pid_ < 0 || Reap(WNOHANG); }

void Process::WaitEnded() {
  while (!Ended()) SleepMs(1);
}

void Process::Stop() {
  if (pid_ < 0) return;
  Signal(SIGCONT);
  Signal(SIGTERM);
  for (int waited = 0; waited < kStopTimeoutMs; waited += kPollMs) {
    if (Reap(WNOHANG)) return;
    SleepMs(kPollMs);
  }
  LOG(WARNING) << "process " << pid_ << " did not stop after SIGTERM; killing it";
  Signal(SIGKILL);
  Reap(0);
}

void Process::Signal(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

double Process::CpuSeconds() const {
  if (pid_ < 0) return 0;
  double sum = CpuSecondsOf(pid_);
  for (pid_t child : ChildrenOf(pid_)) sum += CpuSecondsOf(child);
  return sum;
}

std::string Process::LogTail() const {
  std::ifstream in(log_path_);
  std::string all((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return all.size() > 2000 ? all.substr(all.size() - 2000) : all;
}

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/task/{}/children", pid, pid));
  std::vector<pid_t> children;
  for (pid_t child = 0; in >> child;) children.push_back(child);
  return children;
}

Result<uint16_t> FreePort() {
  static std::mt19937 random{std::random_device{}()};
  static std::set<uint16_t> given;
  for (int tries = 0; tries < 1000; ++tries) {
    const auto port = static_cast<uint16_t>(kFirstPort + random() % kPorts);
    Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = Loopback(port);
    if (s.fd() < 0) return ErrnoError(errno, "find a free port");
    if (::bind(s.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) continue;
    if (given.insert(port).second) return port;
  }
  return Error(Code::kUnavailable, "no port from {} to {} of the loopback interface is free", kFirstPort,
               kFirstPort + kPorts - 1);
}

bool Accepts(uint16_t port) { return ConnectLoopback(port, 1000).ok(); }

void SleepMs(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void CleanUpOnSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  std::thread(WaitForSignals, signals).detach();
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Socket> ConnectLoopback(uint16_t port, int64_t timeout_ms) {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (s.fd() < 0) return ErrnoError(errno, "open a socket");
  const timeval timeout{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  const int on = 1;
  ::setsockopt(s.fd(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  ::setsockopt(s.fd(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  ::setsockopt(s.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  sockaddr_in address = Loopback(port);
  if (::connect(s.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoError(errno, "connect to port {}", port);
  }
  return Result<Socket>(std::move(s));
}

}  // namespace pando::bench
