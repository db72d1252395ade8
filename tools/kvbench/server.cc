#include "tools/kvbench/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "src/base/address.h"
#include "src/base/check.h"

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr int kStartTimeoutMs = 60'000;
constexpr int kStopTimeoutMs = 30'000;
constexpr int kPollMs = 20;
constexpr int kInterrupted = 130;  // the exit code with which a shell reports SIGINT

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Returns a port that is free now. Another process may take it before the server does. The server's
// start then fails with an error.
Result<uint16_t> FreePort() {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  if (s.fd() < 0 || ::bind(s.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::getsockname(s.fd(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoError(errno, "find a free port");
  }
  return ntohs(address.sin_port);
}

bool Accepts(uint16_t port) {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(port);
  return s.fd() >= 0 && ::connect(s.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

// Sends one command for the set-up of redis, and returns the first line of the answer.
Result<std::string> RedisCommand(uint16_t port, const std::string& inline_command) {
  Socket s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(port);
  if (s.fd() < 0 || ::connect(s.fd(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoError(errno, "connect to redis on port {}", port);
  }
  std::string line = inline_command + "\r\n";
  if (::send(s.fd(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return ErrnoError(errno, "send \"{}\" to redis", inline_command);
  }
  std::string answer;
  char buffer[256];
  while (answer.find('\n') == std::string::npos) {
    pollfd p{s.fd(), POLLIN, 0};
    if (::poll(&p, 1, 5000) <= 0) return Error(Code::kDeadline, "redis did not answer \"{}\"", inline_command);
    ssize_t n = ::recv(s.fd(), buffer, sizeof(buffer), 0);
    if (n <= 0) return Error(Code::kUnavailable, "redis closed the connection at \"{}\"", inline_command);
    answer.append(buffer, static_cast<size_t>(n));
  }
  return answer.substr(0, answer.find('\r'));
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

// The servers that a signal must clean up. Shared with the signal thread.
struct Registry {
  std::mutex mutex;
  std::map<std::string, pid_t> servers;  // by directory
};
Registry& StartedServers() {
  static Registry registry;
  return registry;
}

void WaitForSignals(sigset_t signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  Registry& registry = StartedServers();
  std::lock_guard lock(registry.mutex);  // held until exit, so that no server is started any more
  for (const auto& [directory, pid] : registry.servers) {
    if (pid > 0) ::kill(pid, SIGKILL);
    std::error_code ignored;
    fs::remove_all(directory, ignored);
  }
  ::_exit(kInterrupted);
}

class Spawned final : public Server {
 public:
  Spawned(std::string system, uint16_t port, std::string directory)
      : Server(std::move(system), "127.0.0.1", port), directory_(std::move(directory)) {
    Register(-1);
  }
  ~Spawned() override {
    Stop();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
    std::lock_guard lock(StartedServers().mutex);
    StartedServers().servers.erase(directory_);
  }

  Status Start(const std::vector<std::string>& args, int core) {
    std::vector<char*> argv;
    argv.reserve(args.size() + 1);
    for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    pid_t parent = ::getpid();
    const std::string log_path = LogPath();
    pid_ = ::fork();
    if (pid_ < 0) return ErrnoError(errno, "start {}", args[0]);
    if (pid_ == 0) BecomeServer(argv, log_path.c_str(), core, parent);
    Register(pid_);
    for (int waited = 0; waited < kStartTimeoutMs; waited += kPollMs) {
      if (Reap(WNOHANG)) {
        return Error(Code::kUnavailable, "{} ended during its start; the end of its log: {}", args[0], LogTail());
      }
      if (Accepts(port_)) return Status();
      std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
    }
    return Error(Code::kDeadline, "{} does not listen on port {} after {} s; the end of its log: {}", args[0], port_,
                 kStartTimeoutMs / 1000, LogTail());
  }

  double CpuSeconds() const override {
    std::ifstream in("/proc/" + std::to_string(pid_) + "/stat");
    std::string line;
    std::getline(in, line);
    size_t after_name = line.rfind(')');
    if (after_name == std::string::npos) return 0;
    unsigned long user = 0, system = 0;
    std::sscanf(line.c_str() + after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }
  void Pause() override {
    if (pid_ > 0) ::kill(pid_, SIGSTOP);
  }
  void Resume() override {
    if (pid_ > 0) ::kill(pid_, SIGCONT);
  }

 private:
  void Register(pid_t pid) {
    std::lock_guard lock(StartedServers().mutex);
    StartedServers().servers[directory_] = pid;
  }
  std::string LogPath() const { return directory_ + "/server.log"; }
  std::string LogTail() const {
    std::ifstream in(LogPath());
    std::string all((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    return all.size() > 2000 ? all.substr(all.size() - 2000) : all;
  }
  // Waits for the process. Once that succeeds the kernel may reuse the pid, so the registry must
  // forget it under the same lock.
  bool Reap(int flags) {
    std::lock_guard lock(StartedServers().mutex);
    if (::waitpid(pid_, nullptr, flags) != pid_) return false;
    StartedServers().servers[directory_] = pid_ = -1;
    return true;
  }
  void Stop() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGCONT);
    ::kill(pid_, SIGTERM);
    for (int waited = 0; waited < kStopTimeoutMs; waited += kPollMs) {
      if (Reap(WNOHANG)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
    }
    LOG(WARNING) << system_ << " (pid " << pid_ << ") did not stop after SIGTERM; killing it";
    ::kill(pid_, SIGKILL);
    Reap(0);
  }

  std::string directory_;
  pid_t pid_ = -1;
};

Result<std::string> MakeScratch(const std::string& parent) {
  std::string path = parent + "/kvbench-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return ErrnoError(errno, "create a directory in {}", parent);
  return path;
}

}  // namespace

namespace {
std::string NextToKvbench(const char* name) {
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}
}  // namespace

std::string DefaultKvnode() { return NextToKvbench("kvnode"); }
std::string DefaultResponder() { return NextToKvbench("kvbench_responder"); }

Result<std::unique_ptr<Server>> StartKvnode(const ServerOptions& options) {
  const std::string& binary = options.binary;
  if (!fs::exists(binary)) {
    return Error(Code::kNotFound, "{} does not exist; build kvnode, name its path with --kvnode, or use --server",
                 binary);
  }
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(std::string directory, MakeScratch(options.scratch_dir));
  uint64_t limit_mb = options.memory_limit_mb;
  if (limit_mb == 0) limit_mb = std::max<uint64_t>(1024, (options.data_bytes * 4) >> 20);
  auto server = std::make_unique<Spawned>("pando", port, directory);
  std::vector<std::string> args = {binary,          "--data_dir=" + directory + "/data",
                                   "--reactors=1",  "--listen=127.0.0.1:" + std::to_string(port),
                                   "--http_port=0", "--memory_limit_mb=" + std::to_string(limit_mb)};
  args.insert(args.end(), options.extra_args.begin(), options.extra_args.end());
  RETURN_IF_ERROR(server->Start(args, options.core));
  return std::unique_ptr<Server>(std::move(server));
}

Result<std::unique_ptr<Server>> StartRedis(const ServerOptions& options, RedisDurability durability) {
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(std::string directory, MakeScratch(options.scratch_dir));
  auto server = std::make_unique<Spawned>("redis", port, directory);
  const char* append_only = durability == RedisDurability::kAlways ? "yes" : "no";
  std::vector<std::string> args = {options.redis_binary,
                                   "--bind",
                                   "127.0.0.1",
                                   "--port",
                                   std::to_string(port),
                                   "--dir",
                                   directory,
                                   "--save",
                                   "",
                                   "--appendonly",
                                   append_only,
                                   "--appendfsync",
                                   "everysec",
                                   "--auto-aof-rewrite-percentage",
                                   "0",
                                   "--maxclients",
                                   "10000",
                                   "--daemonize",
                                   "no"};
  RETURN_IF_ERROR(server->Start(args, options.core));
  for (int waited = 0;; waited += kPollMs) {
    Result<std::string> pong = RedisCommand(port, "PING");
    if (pong.ok() && *pong == "+PONG") break;
    if (waited > kStartTimeoutMs)
      return Status(Code::kDeadline, "redis-server accepts connections but does not answer PING");
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
  return std::unique_ptr<Server>(std::move(server));
}

Result<std::unique_ptr<Server>> StartResponder(const ServerOptions& options, uint32_t value_bytes) {
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(std::string directory, MakeScratch(options.scratch_dir));
  auto server = std::make_unique<Spawned>("nothing", port, directory);
  const std::vector<std::string> args = {options.responder_binary, std::to_string(value_bytes), "-1",
                                         std::to_string(port)};
  RETURN_IF_ERROR(server->Start(args, options.core));
  return std::unique_ptr<Server>(std::move(server));
}

Status MakeRedisDurable(const Server& redis) {
  ASSIGN_OR_RETURN(std::string answer, RedisCommand(redis.port(), "CONFIG SET appendfsync always"));
  if (answer != "+OK") return Error(Code::kIoError, "redis refused CONFIG SET appendfsync always: {}", answer);
  return Status();
}

Result<std::unique_ptr<Server>> UseServer(std::string system, const std::string& address) {
  struct Foreign final : Server {
    Foreign(std::string s, std::string h, uint16_t p) : Server(std::move(s), std::move(h), p) {}
  };
  Result<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return Error(Code::kInvalidArgument, "--server: {}", parsed.status().message());
  return std::unique_ptr<Server>(std::make_unique<Foreign>(std::move(system), parsed->host, parsed->port));
}

void CleanUpOnSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  std::thread(WaitForSignals, signals).detach();
}

Status PinThread(int core) {
  if (core < 0) return Status();
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(core), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) return ErrnoError(errno, "pin the generator to core {}", core);
  return Status();
}

std::string BinaryVersion(const std::string& binary) {
  std::string command = "'" + binary + "' --version 2>/dev/null";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) return "";
  char line[256] = "";
  if (!std::fgets(line, sizeof(line), pipe)) line[0] = 0;
  ::pclose(pipe);
  return std::string(line, strcspn(line, "\n"));
}

}  // namespace pando::bench
