#include "tools/kvbench/server.h"

#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "src/base/address.h"
#include "src/base/check.h"
#include "tools/common/command_line.h"
#include "tools/kvbench/process.h"
#include "tools/kvbench/spawned.h"

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kRedisTimeoutMs = 5000;

std::string NextToKvbench(const char* name) {
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}
}  // namespace

std::string DefaultKvnode() { return NextToKvbench("kvnode"); }
std::string DefaultKvrouter() { return NextToKvbench("kvrouter"); }
std::string DefaultKvadmin() { return NextToKvbench("kvadmin"); }
std::string DefaultResponder() { return NextToKvbench("kvbench_responder"); }

Result<std::unique_ptr<Server>> StartKvnode(const ServerOptions& options) {
  const std::string& binary = options.binary;
  if (!fs::exists(binary)) {
    return Error(Code::kNotFound, "{} does not exist; build kvnode, name its path with --kvnode, or use --server",
                 binary);
  }
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.scratch_dir));
  const std::string path = directory.path();
  uint64_t limit_mb = options.memory_limit_mb;
  if (limit_mb == 0) limit_mb = std::max<uint64_t>(1024, (options.data_bytes * 4) >> 20);
  auto server = std::make_unique<Spawned>("pando", port, std::move(directory));
  std::vector<std::string> args = {binary,          "--data_dir=" + path + "/data",
                                   "--reactors=1",  "--listen=127.0.0.1:" + std::to_string(port),
                                   "--http_port=0", "--memory_limit_mb=" + std::to_string(limit_mb)};
  args.insert(args.end(), options.extra_args.begin(), options.extra_args.end());
  RETURN_IF_ERROR(server->Start(args, options.core));
  return std::unique_ptr<Server>(std::move(server));
}

Result<std::string> RedisCommand(uint16_t port, const std::string& inline_command) {
  ASSIGN_OR_RETURN(Socket s, ConnectLoopback(port, kRedisTimeoutMs));
  std::string line = inline_command + "\r\n";
  if (::send(s.fd(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return ErrnoError(errno, "send \"{}\" to redis", inline_command);
  }
  std::string answer;
  char buffer[4096];
  while (true) {
    const size_t end = answer.find("\r\n");
    if (end != std::string::npos && answer[0] != '$') return answer.substr(0, end);
    if (end != std::string::npos) {
      const std::optional<size_t> length = tools::ParseNumber<size_t>(std::string_view(answer).substr(1, end - 1));
      if (!length)
        return Error(Code::kCorruption, "redis answered \"{}\" with {}", inline_command, answer.substr(0, end));
      if (answer.size() >= end + 2 + *length) return answer.substr(end + 2, *length);
    }
    ssize_t n = ::recv(s.fd(), buffer, sizeof(buffer), 0);
    if (n < 0 && errno == EINTR) continue;  // with a time limit, also when this process was stopped and goes on
    if (n < 0) return ErrnoError(errno, "read the answer of redis to \"{}\"", inline_command);
    if (n == 0) return Error(Code::kUnavailable, "redis closed the connection at \"{}\"", inline_command);
    answer.append(buffer, static_cast<size_t>(n));
  }
}

Result<std::unique_ptr<Server>> StartRedis(const ServerOptions& options, RedisDurability durability) {
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.scratch_dir));
  const std::string path = directory.path();
  auto server = std::make_unique<Spawned>("redis", port, std::move(directory));
  const char* append_only = durability == RedisDurability::kAlways ? "yes" : "no";
  std::vector<std::string> args = {options.redis_binary,
                                   "--bind",
                                   "127.0.0.1",
                                   "--port",
                                   std::to_string(port),
                                   "--dir",
                                   path,
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
    SleepMs(kPollMs);
  }
  return std::unique_ptr<Server>(std::move(server));
}

Result<std::unique_ptr<Server>> StartResponder(const ServerOptions& options, uint32_t value_bytes) {
  ASSIGN_OR_RETURN(uint16_t port, FreePort());
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.scratch_dir));
  auto server = std::make_unique<Spawned>("nothing", port, std::move(directory));
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
