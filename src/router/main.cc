// kvrouter: a stateless router for a cluster of Pando. Reads the flags, starts a Router, waits for a signal, and stops
// the router.
//
// Exit codes: 0 stopped as requested; 1 could not start (bad flags, port in use).
#include <gflags/gflags.h>

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

#include "src/base/address.h"
#include "src/base/check.h"
#include "src/base/wrapped_text.h"
#include "src/io/socket_address.h"
#include "src/router/router.h"

DEFINE_string(nodes, "", "host:port,host:port: some nodes of the cluster, as clients reach them. Required.");
DEFINE_string(listen, "127.0.0.1:7450",
              "host:port for Thrift clients, IPv6 as in [::1]:7450; port 0 picks a free port and prints it.");
DEFINE_int32(
    http_port, 7451,
    "Port of the status page, /status, /metrics, /healthz and /readyz (200 once there is a map of the cluster), "
    "on the host of --listen; 0: any free port, -1: none.");
DEFINE_uint32(reactors, 0, "Threads; 0: one per CPU.");
DEFINE_uint64(memory_limit_mb, 512, "MiB of memory for the whole process: connections, requests, replies.");
DEFINE_uint32(max_connections, 20000,
              "Number of client connections served at once; a further one replaces an idle one, or is refused.");
DEFINE_int32(default_budget_ms, 10000,
             "Budget in ms of a request that does not set one; when it has passed, the answer is DEADLINE.");
DEFINE_int32(max_budget_ms, 600000, "Largest budget of a request, in ms; a larger one is cut to this.");
DEFINE_int32(stall_timeout_s, 60,
             "Close a connection if its peer is gone, or moves less than 1 KiB/s of pending bytes, for this many "
             "seconds.");
DEFINE_int64(idle_timeout_s, 3600, "Close a connection that has sent no request for this many seconds; 0: never.");
DEFINE_int32(shutdown_timeout_ms, 5000, "Time, in ms, that running requests have to finish after SIGTERM or SIGINT.");
DEFINE_uint64(cache_mb, 0,
              "MiB, of --memory_limit_mb, to keep answers of gets at BOUNDED for those that come soon after; 0: none.");
DEFINE_double(hedge_percent, 0,
              "Send up to so many percent of the reads at BOUNDED, those that take longer than usual, to a second "
              "replica as well; 0: none, at most 2.");

DECLARE_bool(help);

namespace pando {
namespace {

constexpr int kStopped = 0, kCannotStart = 1;

constexpr char kUsage[] =
    R"(kvrouter: one address for a whole cluster of Pando, an ordered key-value store.

Usage: kvrouter --nodes=HOST:PORT,HOST:PORT [flags]

Clients speak to a router as to a node (thrift/pando.thrift). It knows which node is master of which key, and follows
every change. It keeps nothing on disk: any number of routers may run side by side, and none needs another.

The nodes need not run yet: the router listens at once, answers UNAVAILABLE while it has no map of the cluster, and goes
on asking for it. Until then /readyz answers 503, and says why. The log has it too.

  kvrouter --nodes=10.0.0.1:7420,10.0.0.2:7420
  kvadmin --server 127.0.0.1:7450 get KEY
  curl http://127.0.0.1:7451/metrics

On SIGTERM, SIGINT or SIGHUP, kvrouter finishes running requests and exits with code 0. A second signal ends it at once.

Exit codes: 0 stopped as requested; 1 could not start.

Flags (name, default, meaning):
)";

constexpr size_t kHelpColumn = 44, kHelpWidth = 120;  // of the meaning

void PrintHelp() {
  std::fputs(kUsage, stdout);
  for (const char* name : {"nodes", "listen", "http_port", "reactors", "memory_limit_mb", "max_connections",
                           "default_budget_ms", "max_budget_ms", "stall_timeout_s", "idle_timeout_s",
                           "shutdown_timeout_ms", "cache_mb", "hedge_percent", "log_dir", "minloglevel"}) {
    gflags::CommandLineFlagInfo info;
    if (!gflags::GetCommandLineFlagInfo(name, &info)) continue;
    std::printf("    --%-20s %-16s %s\n", name, info.default_value.c_str(),
                WrappedText(info.description, kHelpColumn, kHelpColumn, kHelpWidth).c_str());
  }
  std::puts(
      "\n--helpfull lists all flags, including the logging library's. Logs go to stderr unless --log_dir is set.");
}

Status OptionsFromFlags(RouterOptions* options) {
  if (!FLAGS_log_dir.empty() && access((FLAGS_log_dir + "/.").c_str(), W_OK | X_OK) != 0) {
    return Error(Code::kInvalidArgument, "--log_dir={}: the log cannot be written there: {}", FLAGS_log_dir,
                 std::generic_category().message(errno));
  }
  if (FLAGS_nodes.empty()) {
    return Error(Code::kInvalidArgument, "--nodes is missing: host:port of one or more nodes of the cluster");
  }
  Result<std::vector<std::string>> nodes = ParseNodes(FLAGS_nodes);
  if (!nodes.ok()) return Error(Code::kInvalidArgument, "--nodes: {}", nodes.status().message());
  options->nodes = *std::move(nodes);
  Result<HostPort> listen = ParseHostPort(FLAGS_listen, /*any_port=*/true);
  Status address = listen.ok() ? SocketAddress::Parse(listen->host, listen->port).status() : listen.TakeStatus();
  if (!address.ok()) return Error(Code::kInvalidArgument, "--listen: {}", address.message());
  options->host = listen->host;
  options->port = listen->port;
  options->http_port = FLAGS_http_port;
  options->reactors = FLAGS_reactors;
  // A value that would overflow is refused.
  options->memory_limit_bytes = FLAGS_memory_limit_mb >= uint64_t{1} << 44 ? UINT64_MAX : FLAGS_memory_limit_mb << 20;
  options->max_connections = FLAGS_max_connections;
  options->default_budget_ms = FLAGS_default_budget_ms;
  options->max_budget_ms = FLAGS_max_budget_ms;
  options->stall_timeout_s = FLAGS_stall_timeout_s;
  options->idle_timeout_s = FLAGS_idle_timeout_s;
  options->shutdown_timeout_ms = FLAGS_shutdown_timeout_ms;
  options->cache_bytes = FLAGS_cache_mb >= uint64_t{1} << 44 ? UINT64_MAX : FLAGS_cache_mb << 20;
  options->hedge_percent = FLAGS_hedge_percent;
  return CheckOptions(*options);
}

int RefuseFlags(const Status& status) {
  std::fprintf(stderr, "kvrouter: %s\nRun kvrouter --help for the list of flags.\n", status.message().c_str());
  return kCannotStart;
}

int Run() {
  RouterOptions options;
  if (Status status = OptionsFromFlags(&options); !status.ok()) {
    return RefuseFlags(status);
  }
  std::signal(SIGPIPE, SIG_IGN);
  // Blocked in all threads, and taken here one by one.
  sigset_t signals;
  sigemptyset(&signals);
  for (int s : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction inherited {};
    // nohup ignores SIGHUP so that the process outlives its terminal. That must stay so.
    if (sigaction(s, nullptr, &inherited) == 0 && inherited.sa_handler != SIG_IGN) sigaddset(&signals, s);
  }
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  Router router(options);
  if (Status status = router.Start(); !status.ok()) {
    LOG(ERROR) << "kvrouter cannot start: " << status.message();
    return kCannotStart;
  }
  std::printf("%s\n", router.Describe().c_str());
  std::fflush(stdout);
  LOG(INFO) << router.Describe();
  int signal = 0;
  CHECK_EQ(sigwait(&signals, &signal), 0);
  LOG(INFO) << "stopping on signal " << signal;
  CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &signals, nullptr), 0);  // a second one ends the process
  router.Stop();
  LOG(INFO) << "kvrouter stopped";
  return kStopped;
}

}  // namespace
}  // namespace pando

int main(int argc, char** argv) {
  gflags::SetVersionString(PANDO_VERSION);
  gflags::SetUsageMessage("kvrouter --nodes=HOST:PORT [flags]; kvrouter --help explains the flags");
  if (pando::Status status = pando::CheckNumberFlags(argc, argv, pando::RouterFlagRanges()); !status.ok()) {
    return pando::RefuseFlags(status);
  }
  gflags::ParseCommandLineNonHelpFlags(&argc, &argv, /*remove_flags=*/true);
  if (FLAGS_help) {
    pando::PrintHelp();
    return 0;
  }
  gflags::HandleCommandLineHelpFlags();
  if (argc > 1) {
    std::fprintf(stderr, "kvrouter: \"%s\" is not a flag; run kvrouter --help for the list of flags.\n", argv[1]);
    return pando::kCannotStart;
  }
  if (FLAGS_log_dir.empty()) FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  return pando::Run();
}
