// kvnode: one storage node. Reads the flags, starts a Node, waits for a signal or a failure, and
// stops the node.
//
// Exit codes: 0 stopped as requested; 1 could not start (bad flags, locked or damaged data
// directory, port in use); 2 the engine failed while running; 3 a second signal cut the orderly
// stop short.
#include <gflags/gflags.h>

#include <semaphore.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

#include "src/base/check.h"
#include "src/base/wrapped_text.h"
#include "src/node/guard.h"
#include "src/node/node.h"

DEFINE_string(data_dir, "", "Directory of the store; created if missing. Required.");
DEFINE_string(listen, "127.0.0.1:7420",
              "host:port for Thrift clients, IPv6 as in [::1]:7420; port 0 picks a free port and prints it.");
DEFINE_int32(http_port, 7421,
             "Port of /metrics, /healthz and /readyz, on the host of --listen; 0: any free port, -1: none.");
DEFINE_string(
    topology, "",
    "Where the map of the cluster is: file:DIR, or etcd://HOST:PORT,HOST:PORT/NAME; kvadmin cluster init makes it. "
    "Empty: this node is alone.");
DEFINE_uint32(node_id, 0, "ID of this node in the cluster, from 1; 0: the one that the data directory has.");
DEFINE_string(peer_listen, "",
              "host:port for the other nodes of the cluster; reactor i listens on port + i. Port 0: any free ports; "
              "empty: those, on the host of --listen.");
DEFINE_uint64(install_mb_per_s, 0,
              "Read rate, in MiB/s, of copies of partitions from other nodes of the cluster, for replicas of this node "
              "that have missed too much of the log, or have lost their data; 0: no limit.");
DEFINE_int64(
    replace_after_s, 0,
    "Of a node of a cluster: when another node has been away for this many seconds, its replicas are given to "
    "the others, unless a third or more of the nodes are away; 0: never. kvadmin rebalance --replace overrides it.");
DEFINE_string(
    auto_balance, "off",
    "Of a node of a cluster, the same on all: measure the traffic of all nodes, publish how many are wanted "
    "(/wanted_nodes), and move masterships and replicas off nodes that have too much: on, or log: only say what "
    "would move.");
DEFINE_uint32(balance_moves_per_minute, 2, "With --auto_balance=on: most masterships and replicas that begin to move.");
DEFINE_uint32(balance_target_percent, 60,
              "With --auto_balance: so many nodes are wanted that each uses this part of its processors' time.");
DEFINE_bool(guard, true,
            "Of a node of a cluster: run under a guard, a parent process that tells the other nodes when this one has "
            "ended, so that they need not wait for its leases. Off: for debuggers.");
DEFINE_int64(snapshot_max_age_s, 86400, "Longest lifetime of a snapshot, in seconds, however often it is renewed.");
DEFINE_uint32(max_connections, 20000,
              "Number of client connections served at once; a further one replaces an idle one, or is refused.");
DEFINE_int32(default_budget_ms, 10000,
             "Budget in ms of a request that does not set one; when it has passed, the answer is DEADLINE.");
DEFINE_int32(max_budget_ms, 600000, "Largest budget of a request, in ms; a larger one is cut to this.");
DEFINE_int32(stall_timeout_s, 60,
             "Close a connection if its peer is gone, or moves less than 1 KiB/s of pending bytes (more if it holds "
             "much memory), "
             "for this many seconds.");
DEFINE_int64(idle_timeout_s, 3600, "Close a connection that has sent no request for this many seconds; 0: never.");
DEFINE_uint32(reactors, 0,
              "Reactor threads, for a new store at most as many as partitions; 0: one per CPU for a new store, else "
              "the store's number. Another number than the store's is possible: the node then recovers the old logs "
              "before it serves.");
DEFINE_uint32(
    partitions, 0,
    "Partitions, fixed when the store is created, a power of two; 0: 16 for a new store, else the store's number.");
DEFINE_uint32(page_bytes, 0,
              "Page size, fixed when the store is created, 4096 to 65536; 0: the default, or the store's size.");
DEFINE_string(compression, "lz4",
              "Compression of pages written from now on: none, lz4 or zstd. Pages stored before can always be read.");
DEFINE_uint64(memory_limit_mb, 1024,
              "MiB of memory for the whole process: page pool, log buffers, connections, requests.");
DEFINE_uint64(
    log_budget_mb, 512,
    "Most log to keep, in MiB; bounds recovery time. Its files may take a quarter more, and 48 MiB per reactor.");
DEFINE_uint64(log_budget_records, 4000000, "Most log records to keep; bounds recovery time.");
DEFINE_uint64(log_retained_mb, 0,
              "Log to keep for followers beyond what the node itself needs, in MiB; 0: none. Recovery reads it too.");
DEFINE_int64(checkpoint_interval_s, 60,
             "Longest time, in seconds, between two checkpoints of a partition that has changes.");
DEFINE_uint64(scrub_mb_per_s, 8, "Rate, in MiB/s, at which data on disk is verified in the background; 0: never.");
DEFINE_int64(scrub_interval_h, 168,
             "Hours between the starts of two background passes; the first begins an hour after the start.");
DEFINE_uint64(gather_mb_per_s, 8,
              "Rate, in MiB/s, at which leaves that scans found scattered are written together; 0: never.");
DEFINE_uint64(release_space_mb_per_s, 64,
              "Rate, in MiB/s, at which freed space goes back to the file system in the background; 0: never.");
DEFINE_int64(release_space_after_s, 60,
             "Space goes back to the file system when it has been free for this many seconds.");
DEFINE_int32(shutdown_timeout_ms, 5000,
             "Time, in ms, that running requests have to finish after SIGTERM, SIGINT or SIGHUP.");
DEFINE_bool(pin_threads, false, "Pin reactor i to the i-th CPU that the process may run on.");

DECLARE_bool(help);

namespace pando {
namespace {

constexpr int kStopped = 0, kCannotStart = 1, kEngineFailed = 2, kStopCutShort = 3, kDisplaced = 4;
// After a failure of the engine, the node has this long to stop, beyond --shutdown_timeout_ms.
constexpr unsigned kLateStopS = 60;

// The state that decides what a signal does. A crash at any moment loses no acknowledged write, and
// recovery changes nothing that a later recovery needs. So a node that is still starting, or that
// receives a second signal, may exit at once.
enum class Phase : int { kStarting, kServing, kStopping };
std::atomic<Phase> phase{Phase::kStarting};
static_assert(std::atomic<Phase>::is_always_lock_free, "a signal handler may touch nothing else");
sem_t stop_wanted;

void EndNow(int code, std::string_view message) {
  // Only async-signal-safe calls. Nothing can be done about a failed write.
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, message.data(), message.size());
  _exit(code);
}

// A supervisor may signal all processes of a service at once, and the guard passes its signal on: then two come,
// one of them from the guard, and they are one request.
pid_t guard_process = 0;
std::atomic<int> from_guard{0}, from_others{0};

// Runs on the main thread: the reactors' threads block these signals (ReactorGroup::Start).
void OnSignal(int /*signal*/, siginfo_t* info, void* /*context*/) {
  const int error = errno;
  const bool by_guard = guard_process != 0 && info->si_pid == guard_process;
  const int before = (by_guard ? from_guard : from_others).fetch_add(1);
  Phase serving = Phase::kServing;
  if (phase.compare_exchange_strong(serving, Phase::kStopping)) {
    sem_post(&stop_wanted);
  } else if (serving == Phase::kStarting) {
    EndNow(kStopped, "kvnode: a signal stopped the node before it was ready\n");
  } else if (before > 0) {
    EndNow(kStopCutShort, "kvnode: a second signal stopped the node at once; the next start recovers from the log\n");
  }
  errno = error;
}

// Nobody may be there to send a signal after a failure, and a supervisor waits for the exit. The
// data directory stays locked until then.
template <int kCode>
void OnLateStop(int /*signal*/) {
  EndNow(kCode, "kvnode: the node did not stop in time by itself; the next start recovers from the log\n");
}

void HandleSignals() {
  CHECK_EQ(sem_init(&stop_wanted, /*pshared=*/0, 0), 0);
  struct sigaction action {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (int s : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction inherited {};
    // nohup ignores SIGHUP so that the process outlives its terminal. That must stay so.
    const bool nohup = s == SIGHUP && sigaction(s, nullptr, &inherited) == 0 && inherited.sa_handler == SIG_IGN;
    if (!nohup) sigaction(s, &action, nullptr);
  }
  std::signal(SIGPIPE, SIG_IGN);
  // A write beyond the size limit of files (ulimit -f) then fails with EFBIG, which is handled like
  // a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
}

constexpr char kUsage[] =
    R"(kvnode: a storage node of Pando, an ordered key-value store.

Usage: kvnode --data_dir=DIR [flags]

kvnode stores records (key 1-2048 bytes, value up to 1 MiB) in DIR and serves them over framed Thrift
(thrift/pando.thrift; binary and compact protocol). It acknowledges a write when the write is on disk, and recovers
from a crash without help.

  kvnode --data_dir=/var/lib/pando
  kvnode --data_dir=./data --listen=127.0.0.1:0 --memory_limit_mb=4096
  curl http://127.0.0.1:7421/metrics
  kvadmin status

On SIGTERM, SIGINT or SIGHUP, kvnode finishes running requests, takes a checkpoint and exits with code 0; during
startup it exits at once. A second signal ends it at once with exit code 3: no acknowledged write is lost, but the next
start has to recover from the log.

Exit codes: 0 stopped as requested; 1 could not start; 2 the storage engine failed, most likely because of the disk;
3 a second signal cut the stop short; 4 another process is this node of the cluster now.

Flags (name, default, meaning):
)";

constexpr size_t kHelpColumn = 46, kHelpWidth = 120;  // of the meaning

struct FlagGroup {
  const char* title;
  std::vector<const char*> names;
};

void PrintHelp() {
  std::fputs(kUsage, stdout);
  const FlagGroup groups[] = {
      {"Store", {"data_dir", "partitions", "reactors", "page_bytes", "compression"}},
      {"Network",
       {"listen", "http_port", "max_connections", "default_budget_ms", "max_budget_ms", "stall_timeout_s",
        "idle_timeout_s"}},
      {"Cluster",
       {"topology", "node_id", "peer_listen", "guard", "install_mb_per_s", "replace_after_s", "auto_balance",
        "balance_moves_per_minute", "balance_target_percent"}},
      {"Resources",
       {"memory_limit_mb", "log_budget_mb", "log_budget_records", "log_retained_mb", "checkpoint_interval_s",
        "snapshot_max_age_s", "scrub_mb_per_s", "scrub_interval_h", "gather_mb_per_s", "release_space_mb_per_s",
        "release_space_after_s", "pin_threads"}},
      {"Running", {"shutdown_timeout_ms", "log_dir", "minloglevel"}},
  };
  for (const FlagGroup& group : groups) {
    std::printf("\n  %s\n", group.title);
    for (const char* name : group.names) {
      gflags::CommandLineFlagInfo info;
      if (!gflags::GetCommandLineFlagInfo(name, &info)) continue;
      std::printf("    --%-22s %-16s %s\n", name, info.default_value.c_str(),
                  WrappedText(info.description, kHelpColumn, kHelpColumn, kHelpWidth).c_str());
    }
  }
  std::puts(
      "\n--helpfull lists all flags, including the logging library's. Logs go to stderr unless --log_dir is set.");
}

// A value that would overflow becomes UINT64_MAX, which CheckOptions refuses, instead of wrapping
// around.
uint64_t MibToBytes(uint64_t mib) { return mib >= uint64_t{1} << 44 ? UINT64_MAX : mib << 20; }

// The logging library does not say so if it cannot write, and the node would run without a log.
Status CheckLogDirectory() {
  if (FLAGS_log_dir.empty() || access((FLAGS_log_dir + "/.").c_str(), W_OK | X_OK) == 0) return {};
  return Error(Code::kInvalidArgument,
               "--log_dir={}: the log cannot be written there: {}; create the directory and let this user write to it, "
               "or leave the flag out, and the log goes to stderr",
               FLAGS_log_dir, std::generic_category().message(errno));
}

Status OptionsFromFlags(NodeOptions* options) {
  RETURN_IF_ERROR(CheckLogDirectory());
  options->data_dir = FLAGS_data_dir;
  if (Status status = ParseListen(FLAGS_listen, &options->host, &options->port); !status.ok()) {
    return Error(Code::kInvalidArgument, "--listen: {}", status.message());
  }
  options->http_port = FLAGS_http_port;
  options->topology = FLAGS_topology;
  options->node_id = FLAGS_node_id;
  options->install_mb_per_s = FLAGS_install_mb_per_s;
  options->replace_after_s = FLAGS_replace_after_s;
  ASSIGN_OR_RETURN(options->auto_balance, ParseAutoBalance(FLAGS_auto_balance));
  options->balance_moves_per_minute = FLAGS_balance_moves_per_minute;
  options->balance_target_percent = FLAGS_balance_target_percent;
  if (!FLAGS_peer_listen.empty()) {
    if (Status status = ParseListen(FLAGS_peer_listen, &options->peer_host, &options->peer_port); !status.ok()) {
      return Error(Code::kInvalidArgument, "--peer_listen: {}", status.message());
    }
  }
  options->reactors = FLAGS_reactors;
  options->partitions = FLAGS_partitions;
  options->page_bytes = FLAGS_page_bytes;
  Result<Compression> compression = ParseCompression(FLAGS_compression);
  if (!compression.ok()) return Error(Code::kInvalidArgument, "--compression: {}", compression.status().message());
  options->compression = *compression;
  options->memory_limit_bytes = MibToBytes(FLAGS_memory_limit_mb);
  options->log_budget_bytes = MibToBytes(FLAGS_log_budget_mb);
  options->log_budget_records = FLAGS_log_budget_records;
  options->log_retained_bytes = MibToBytes(FLAGS_log_retained_mb);
  options->checkpoint_interval_s = FLAGS_checkpoint_interval_s;
  options->snapshot_max_age_s = FLAGS_snapshot_max_age_s;
  options->scrub_mb_per_s = FLAGS_scrub_mb_per_s;
  options->scrub_interval_h = FLAGS_scrub_interval_h;
  options->gather_mb_per_s = FLAGS_gather_mb_per_s;
  options->release_space_mb_per_s = FLAGS_release_space_mb_per_s;
  options->release_space_after_s = FLAGS_release_space_after_s;
  options->max_connections = FLAGS_max_connections;
  options->default_budget_ms = FLAGS_default_budget_ms;
  options->max_budget_ms = FLAGS_max_budget_ms;
  options->stall_timeout_s = FLAGS_stall_timeout_s;
  options->idle_timeout_s = FLAGS_idle_timeout_s;
  options->shutdown_timeout_ms = FLAGS_shutdown_timeout_ms;
  options->pin_threads = FLAGS_pin_threads;
  return CheckOptions(*options);
}

int RefuseFlags(const Status& status) {
  std::fprintf(stderr, "kvnode: %s\nRun kvnode --help for the list of flags.\n", status.message().c_str());
  return kCannotStart;
}

int Run() {
  NodeOptions options;
  if (Status status = OptionsFromFlags(&options); !status.ok()) {
    return RefuseFlags(status);
  }
  if (FLAGS_guard && options.clustered()) {
    options.guard_descriptor = RunGuarded();
    if (options.guard_descriptor >= 0) guard_process = getppid();
  }
  HandleSignals();
  std::atomic<bool> failed{false}, displaced{false};
  const auto on_displaced = [&displaced](const Status&) {
    displaced.store(true);
    sem_post(&stop_wanted);
  };
  const auto on_failure = [&failed](const Status& status) {
    LOG(ERROR) << "the storage engine has failed and refuses writes; the node stops: " << status.message();
    failed.store(true);
    sem_post(&stop_wanted);
  };
  Node node(options, on_failure, on_displaced);
  if (Status status = node.Start(); !status.ok()) {
    LOG(ERROR) << "kvnode cannot start: " << status.message();
    return kCannotStart;
  }
  phase.store(Phase::kServing);
  std::printf("%s\n", node.Describe().c_str());
  std::fflush(stdout);
  LOG(INFO) << node.Describe();

  while (sem_wait(&stop_wanted) != 0 && errno == EINTR) {
  }
  // After a failure the phase is still kServing. The first signal then finds the node already
  // stopping, and only a second one ends the process at once.
  LOG(INFO) << (failed.load()      ? "stopping because the storage engine failed"
                : displaced.load() ? "stopping because another process is this node now"
                                   : "stopping on a signal");
  if (failed.load() || displaced.load()) {
    std::signal(SIGALRM, failed.load() ? OnLateStop<kEngineFailed> : OnLateStop<kDisplaced>);
    alarm(static_cast<unsigned>(options.shutdown_timeout_ms / 1000) + kLateStopS);
  }
  Status status = node.Stop();
  if (failed.load() || !status.ok()) {
    LOG(ERROR) << "kvnode stopped after a failure: " << status.ToString();
    return kEngineFailed;
  }
  if (displaced.load()) {
    LOG(ERROR) << "kvnode stopped because another process is this node now";
    return kDisplaced;
  }
  LOG(INFO) << "kvnode stopped";
  return kStopped;
}

}  // namespace
}  // namespace pando

int main(int argc, char** argv) {
  gflags::SetVersionString(pando::kServerVersion);
  gflags::SetUsageMessage("kvnode --data_dir=DIR [flags]; kvnode --help explains the flags");
  if (pando::Status status = pando::CheckNumberFlags(argc, argv, pando::NodeFlagRanges()); !status.ok()) {
    return pando::RefuseFlags(status);
  }
  gflags::ParseCommandLineNonHelpFlags(&argc, &argv, /*remove_flags=*/true);
  if (FLAGS_help) {
    pando::PrintHelp();
    return 0;
  }
  gflags::HandleCommandLineHelpFlags();
  if (argc > 1) {
    std::fprintf(stderr, "kvnode: \"%s\" is not a flag; run kvnode --help for the list of flags.\n", argv[1]);
    return pando::kCannotStart;
  }
  if (FLAGS_log_dir.empty()) FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  return pando::Run();
}
