// Server: a process under test, started by kvbench on a free loopback port, pinned to one core, with a directory of its
// own that goes away with it. A server that somebody else runs is only an address.
//
// Threads: the main thread; calls block.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace pando::bench {

std::string DefaultKvnode();  // the kvnode next to kvbench

struct ServerOptions {
  std::string binary = DefaultKvnode();
  std::string redis_binary = "redis-server";
  std::string scratch_dir = "/var/tmp";  // where data directories are made: durable writes go to this disk
  int core = 0;                          // the server's only core; < 0 = not pinned
  uint64_t memory_limit_mb = 0;          // kvnode's; 0 = four times the data, at least 1024
  uint64_t data_bytes = 0;               // what will be loaded
  std::vector<std::string> extra_args;   // appended to kvnode's command line
};

class Server {
 public:
  virtual ~Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& host() const { return host_; }
  uint16_t port() const { return port_; }
  const std::string& system() const { return system_; }  // "pando", "redis", ...
  // User and system time so far, in seconds; 0 for a foreign server.
  virtual double CpuSeconds() const { return 0; }
  // Stops the process from running (and from disturbing another measurement) until Resume.
  virtual void Pause() {}
  virtual void Resume() {}

 protected:
  Server(std::string system, std::string host, uint16_t port)
      : system_(std::move(system)), host_(std::move(host)), port_(port) {}
  std::string system_;
  std::string host_;
  uint16_t port_;
};

enum class RedisDurability { kNone, kAlways };  // kAlways: append-only file, fsync before the reply

// Starts kvnode with one reactor and waits until it answers.
Result<std::unique_ptr<Server>> StartKvnode(const ServerOptions& options);
// Starts redis-server without snapshots and waits until it answers. kAlways begins with fsync once a second, so that
// loading is quick; MakeRedisDurable switches it on.
Result<std::unique_ptr<Server>> StartRedis(const ServerOptions& options, RedisDurability durability);
Status MakeRedisDurable(const Server& redis);
// "host:port" of a server that runs already.
Result<std::unique_ptr<Server>> UseServer(std::string system, const std::string& address);

// Makes SIGINT and SIGTERM stop the servers that were started, remove their directories and end the process with 130.
// Call it before any other thread is made.
void CleanUpOnSignals();

// Pins the calling thread, the generator's, to one core; < 0 = not pinned.
Status PinThread(int core);
// The version the server's binary reports on its first line, or "".
std::string BinaryVersion(const std::string& binary);

}  // namespace pando::bench
