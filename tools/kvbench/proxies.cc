#include <fmt/format.h>

#include <fstream>
#include <functional>

#include "tools/kvbench/spawned.h"

namespace pando::bench {

namespace {

constexpr int kReadyMs = 1000;  // for the connections to the server

Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  out.close();
  if (out) return Status();
  return Error(Code::kIoError, "{} cannot be written", path);
}

// `args` gets the path of the configuration.
Result<std::unique_ptr<Server>> StartProxy(const ServerOptions& options, const Server& behind, uint16_t port,
                                           const std::string& configuration,
                                           const std::function<std::vector<std::string>(const std::string&)>& args) {
  ASSIGN_OR_RETURN(ScratchDirectory directory, ScratchDirectory::Make(options.scratch_dir));
  const std::string path = directory.path() + "/configuration";
  RETURN_IF_ERROR(WriteFile(path, configuration));
  auto proxy = std::make_unique<Spawned>(behind.system(), port, std::move(directory));
  RETURN_IF_ERROR(proxy->Start(args(path), options.core));
  SleepMs(kReadyMs);
  return std::unique_ptr<Server>(std::move(proxy));
}

}  // namespace

Result<std::unique_ptr<Server>> StartKvrouter(const ServerOptions& options, const Server& node) {
  ASSIGN_OR_RETURN(const uint16_t port, FreePort());
  return StartProxy(options, node, port, "", [&](const std::string&) {
    return std::vector<std::string>{options.kvrouter_binary, fmt::format("--nodes={}:{}", node.host(), node.port()),
                                    fmt::format("--listen=127.0.0.1:{}", port), "--http_port=-1", "--reactors=1"};
  });
}

// https://github.com/twitter/twemproxy: one pool, one server, one connection to it, as by default.
Result<std::unique_ptr<Server>> StartNutcracker(const ServerOptions& options, const Server& redis) {
  ASSIGN_OR_RETURN(const uint16_t port, FreePort());
  ASSIGN_OR_RETURN(const uint16_t stats_port, FreePort());
  const std::string configuration = fmt::format(
      "pool:\n  listen: 127.0.0.1:{}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
      "  servers:\n   - 127.0.0.1:{}:1\n",
      port, redis.port());
  return StartProxy(options, redis, port, configuration, [&](const std::string& path) {
    return std::vector<std::string>{options.nutcracker_binary, "--conf-file=" + path, "--stats-addr=127.0.0.1",
                                    fmt::format("--stats-port={}", stats_port)};
  });
}

// It passes connections on, one for each of the clients', and does not look at requests.
Result<std::unique_ptr<Server>> StartHaproxy(const ServerOptions& options, const Server& redis) {
  ASSIGN_OR_RETURN(const uint16_t port, FreePort());
  const std::string configuration = fmt::format(
      "global\n  maxconn 4096\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
      "  timeout server 1h\nlisten redis\n  bind 127.0.0.1:{}\n  server redis 127.0.0.1:{}\n",
      port, redis.port());
  return StartProxy(options, redis, port, configuration, [&](const std::string& path) {
    return std::vector<std::string>{options.haproxy_binary, "-f", path, "-db"};
  });
}

}  // namespace pando::bench
