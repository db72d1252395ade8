// Server: the server under test. kvbench starts it on a free loopback port, pins it to one core,
// and gives it its own directory. The destructor stops the process and removes the directory. For a
// server that kvbench did not start, the object only holds the address.
//
// Threads: the main thread. Calls block.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace pando::bench {

std::string DefaultKvnode();  // the kvnode next to kvbench
std::string DefaultKvrouter();
std::string DefaultKvadmin();
std::string DefaultResponder();

struct ServerOptions {
  std::string binary = DefaultKvnode();
  std::string kvrouter_binary = DefaultKvrouter();
  std::string nutcracker_binary = "nutcracker", haproxy_binary = "haproxy";
  std::string kvadmin_binary = DefaultKvadmin();  // creates clusters
  std::string redis_binary = "redis-server";
  std::string etcd_binary = "etcd";
  std::string responder_binary = DefaultResponder();
  std::string scratch_dir = "/var/tmp";  // the parent of data directories, on the disk to measure
  int core = 0;                          // the server's only core; < 0 = not pinned
  uint64_t memory_limit_mb = 0;          // kvnode's; 0 = four times the data, at least 1024
  uint64_t data_bytes = 0;               // the size of the data to be loaded
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
  // User and system time so far, in seconds. 0 for a server that kvbench did not start.
  virtual double CpuSeconds() const { return 0; }
  // Suspends the process until Resume, so that it does not disturb another measurement.
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

// Starts kvnode with one reactor and waits until it accepts connections.
Result<std::unique_ptr<Server>> StartKvnode(const ServerOptions& options);
// Starts redis-server without snapshots and waits until it answers PING. With kAlways it starts
// with one fsync a second, so that loading is quick. MakeRedisDurable then switches to an fsync
// before each reply.
Result<std::unique_ptr<Server>> StartRedis(const ServerOptions& options, RedisDurability durability);
Status MakeRedisDurable(const Server& redis);
// Starts a server that answers every get with a value of this length and every put with success, on
// Pando's own reactor, and does nothing else ("nothing"). No server on this reactor can be faster.
Result<std::unique_ptr<Server>> StartResponder(const ServerOptions& options, uint32_t value_bytes);
// Sends one command for the set-up of redis. Returns the first line of the answer, or the contents of a bulk string.
Result<std::string> RedisCommand(uint16_t port, const std::string& inline_command);
// In front of a server, on the same core: kvrouter of a kvnode, and the proxies of a redis-server. The server stays the
// caller's. CpuSeconds is the proxy's own.
Result<std::unique_ptr<Server>> StartKvrouter(const ServerOptions& options, const Server& node);
Result<std::unique_ptr<Server>> StartNutcracker(const ServerOptions& options, const Server& redis);
Result<std::unique_ptr<Server>> StartHaproxy(const ServerOptions& options, const Server& redis);
// Uses a server that already runs at "host:port".
Result<std::unique_ptr<Server>> UseServer(std::string system, const std::string& address);

// Pins the calling thread, which runs the generator, to one core. Does nothing when `core` < 0.
Status PinThread(int core);
// The first line that the binary prints for --version, or "".
std::string BinaryVersion(const std::string& binary);

}  // namespace pando::bench
