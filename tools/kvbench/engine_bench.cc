#include "tools/kvbench/engine_bench.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "tools/common/output.h"
#include "tools/kvbench/process_stats.h"

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kInMemorySlackBytes = 128u << 20;
constexpr size_t kLoadBatchBytes = 100u << 10;
constexpr uint32_t kLoadBatchRecords = 100;  // what Pando accepts in a write with little memory
constexpr double kCalibrateSeconds = 10;
constexpr uint32_t kScanClients = 8;
constexpr int kWatchMs = 50;
constexpr int64_t kPauseNs = 500'000'000;
constexpr int kTries = 3;  // attempts at a measurement during which the machine was paused

const char* NameOf(Distribution d) {
  switch (d) {
    case Distribution::kUniform: return "uniform";
    case Distribution::kZipfian: return "zipfian";
    case Distribution::kLatest: return "latest";
  }
  return "";
}

EngineWorkload Drive(const char* name, const char* mix) {
  EngineWorkload w;
  w.name = name;
  w.mix = mix;
  return w;
}

std::vector<EngineWorkload> MakeWorkloads() {
  std::vector<EngineWorkload> all;
  for (bool sorted : {false, true}) {
    EngineWorkload w = Drive(sorted ? "load-sorted" : "load-random", "load");
    w.kind = EngineWorkload::Kind::kLoad;
    w.sorted = sorted;
    all.push_back(w);
  }
  for (bool single : {false, true}) {
    EngineWorkload w = Drive(single ? "get-memory-single" : "get-memory", "get");
    w.in_memory = w.one_core = true;
    w.max_clients = single ? 1 : 0;
    all.push_back(w);
  }
  all.push_back(Drive("get", "get"));
  all.push_back(Drive("put", "put"));
  for (const char* mix : {"get", "put"}) {
    EngineWorkload w = Drive(mix, mix);
    w.name += "-zipfian";
    w.own_distribution = true;
    w.distribution = Distribution::kZipfian;
    all.push_back(w);
  }
  EngineWorkload scan = Drive("scan", "scan");
  scan.max_clients = kScanClients;
  all.push_back(scan);
  EngineWorkload scan_full = Drive("scan-full", "scan-full");
  scan_full.max_clients = 1;
  all.push_back(scan_full);
  for (const char* mix : {"ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f"}) {
    EngineWorkload w = Drive(mix, mix);
    w.own_distribution = true;
    all.push_back(w);
  }
  for (const char* mix : {"put", "ycsb-a"}) {
    EngineWorkload w = Drive(mix, mix);
    w.name += "-open";
    w.open_loop = true;
    all.push_back(w);
  }
  return all;
}

}  // namespace

const std::vector<EngineWorkload>& EngineWorkloads() {
  static const std::vector<EngineWorkload> all = MakeWorkloads();
  return all;
}

const EngineWorkload* FindEngineWorkload(std::string_view name) {
  for (const EngineWorkload& w : EngineWorkloads()) {
    if (w.name == name) return &w;
  }
  return nullptr;
}

std::vector<std::string> DefaultEngineWorkloads() {
  return {"load-random", "get-memory", "get-memory-single", "get", "scan", "scan-full", "put", "put-open"};
}

Result<std::vector<int>> ParseCpuList(std::string_view text) {
  std::vector<int> cpus;
  const char* at = text.data();
  const char* const end = at + text.size();
  auto number = [&](int* out) {
    auto [next, error] = std::from_chars(at, end, *out);
    at = next;
    return error == std::errc() && *out >= 0 && *out < CPU_SETSIZE;
  };
  while (true) {
    int first = 0;
    if (!number(&first)) break;
    int last = first;
    if (at != end && *at == '-') {
      ++at;
      if (!number(&last)) break;
    }
    if (last < first) break;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at == end) return cpus;
    if (*at++ != ',') break;
  }
  return Error(Code::kInvalidArgument, "\"{}\" is not a list of CPUs; write one like 0-2,5", text);
}

Status CompleteOptions(EngineBenchOptions* o) {
  for (const std::string& name : o->engines) {
    const EngineInfo* engine = FindEngine(name);
    if (engine == nullptr)
      return Error(Code::kInvalidArgument, "unknown engine \"{}\"; kvbench engine --help lists the engines", name);
    if (engine->make) continue;
    return Error(Code::kUnsupported,
                 "kvbench was built without {}; install the Debian package {} (./dev bench does this) and build again, "
                 "or leave the engine out of --engines",
                 name, engine->package);
  }
  for (const std::string& name : o->workloads) {
    if (FindEngineWorkload(name) != nullptr) continue;
    std::vector<std::string> names;
    for (const EngineWorkload& w : EngineWorkloads()) names.push_back(w.name);
    return Error(Code::kInvalidArgument, "unknown workload \"{}\"; use one of {}", name, fmt::join(names, ", "));
  }
  if (o->cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof(set), &set) != 0)
      return ErrnoError(errno, "read the CPUs that this process may use");
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) o->cpus.push_back(cpu);
    }
  }
  if (o->memory_mb == 0) o->memory_mb = std::max<uint64_t>(DataBytes(*o) / 8 >> 20, 1);
  return Status();
}

uint64_t DataBytes(const EngineBenchOptions& o) { return o.records * (o.shape.key_bytes + o.shape.value_bytes); }

uint64_t MemoryFor(const EngineBenchOptions& o, const EngineWorkload& workload) {
  return workload.in_memory ? 2 * DataBytes(o) + kInMemorySlackBytes : o.memory_mb << 20;
}

namespace {

Status PinToCpus(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) == 0) return Status();
  return ErrnoError(errno, "pin to CPUs {}", fmt::join(cpus, ","));
}

// One measurement. Run is called in the child process.
class Measuring {
 public:
  Measuring(const EngineBenchOptions& options, const EngineInfo& info, const EngineWorkload& workload, std::string dir,
            uint64_t records, int run)
      : options_(options), info_(info), workload_(workload), dir_(std::move(dir)), records_(records), run_(run) {}

  Result<EngineMeasurement> Run() {
    std::vector<int> cpus = options_.cpus;
    if (workload_.one_core) cpus.resize(1);
    RETURN_IF_ERROR(PinToCpus(cpus));
    Describe(static_cast<uint32_t>(cpus.size()));
    EngineSettings settings;
    settings.dir = dir_;
    settings.memory_bytes = m_.memory_bytes;
    settings.page_bytes = m_.page_bytes;
    settings.partitions = options_.partitions;
    settings.log_bytes = options_.log_mb << 20;
    settings.clients = m_.clients;
    settings.background_jobs = m_.cpus;
    settings.compression = options_.compression;
    engine_ = info_.make();
    RETURN_IF_ERROR(engine_->Open(settings));
    RETURN_IF_ERROR(workload_.kind == EngineWorkload::Kind::kLoad ? MeasureLoad() : MeasureDrive());
    m_.stats = engine_->Stats();
    RETURN_IF_ERROR(engine_->Close());
    RETURN_IF_ERROR(SyncFileSystem(dir_));
    const DirectoryUse use = MeasureDirectory(dir_, info_.log_names);
    m_.data_bytes = use.data_bytes;
    m_.log_bytes = use.log_bytes;
    const double live = static_cast<double>((records_ + total_inserts_) * (m_.key_bytes + m_.value_bytes));
    m_.space_per_live_byte = static_cast<double>(use.data_bytes) / live;
    m_.inserts = total_inserts_;
    return std::move(m_);
  }

 private:
  void Describe(uint32_t cpus) {
    m_.workload = workload_.name;
    m_.system = info_.name;
    m_.version = info_.version;
    m_.run = run_;
    m_.compression = options_.compression == BenchCompression::kLz4 ? "lz4" : "none";
    m_.records = records_;
    m_.key_bytes = options_.shape.key_bytes;
    m_.value_bytes = options_.shape.value_bytes;
    m_.compressible_percent = options_.shape.compressible_percent;
    m_.memory_bytes = MemoryFor(options_, workload_);
    m_.role = info_.role;
    if (info_.role == "pando") m_.page_bytes = info_.page_bytes > 0 ? info_.page_bytes : options_.page_bytes;
    m_.cpus = cpus;
    m_.clients = workload_.max_clients > 0 ? std::min(workload_.max_clients, options_.clients) : options_.clients;
    if (info_.blocking && workload_.one_core) m_.clients = 1;
    m_.threads = info_.blocking ? m_.clients : 1;
  }

  Status MeasureLoad() {
    LoadSpec spec;
    spec.shape = options_.shape;
    spec.records = records_;
    spec.sorted = workload_.sorted;
    spec.seed = options_.seed;
    spec.batch_records = static_cast<uint32_t>(
        std::clamp<size_t>(kLoadBatchBytes / (spec.shape.key_bytes + spec.shape.value_bytes), 1, kLoadBatchRecords));
    m_.distribution = workload_.sorted ? "sorted" : "random";
    m_.clients = spec.batches_in_flight;
    if (info_.blocking) m_.threads = m_.clients;
    auto tally = std::make_unique<DriveTally>();
    RETURN_IF_ERROR(Begin());
    RETURN_IF_ERROR(engine_->Load(spec, tally.get()));
    return End(*tally, /*writes=*/true);
  }

  Status MeasureDrive() {
    WorkloadOptions workload;
    workload.name = workload_.mix;
    workload.keys = records_;
    workload.distribution = workload_.own_distribution ? workload_.distribution : options_.distribution;
    DriveSpec spec;
    ASSIGN_OR_RETURN(spec.mix, MixOf(workload));
    m_.distribution = NameOf(spec.mix.distribution);
    spec.shape = options_.shape;
    spec.records = records_;
    spec.clients = m_.clients;
    spec.seed = options_.seed * 1000 + static_cast<uint64_t>(run_);
    const bool writes = spec.mix.put + spec.mix.insert + spec.mix.read_modify_write > 0;

    if (workload_.in_memory) {
      DriveSpec warm = spec;
      warm.read_all_once = true;
      RETURN_IF_ERROR(Extra(warm).status());
    }
    DriveSpec before = spec;
    before.seed += 500;
    before.seconds = options_.warmup_s;
    if (before.seconds > 0) RETURN_IF_ERROR(Extra(before).status());
    if (workload_.open_loop) {
      before.seconds = std::min(options_.seconds, kCalibrateSeconds);
      before.seed += 1;
      spec.rate = options_.rate;
      if (spec.rate == 0) {
        ASSIGN_OR_RETURN(double saturated, Extra(before));
        spec.rate = saturated / 2;
      }
      m_.rate = spec.rate;
    }
    spec.records += total_inserts_;
    spec.seconds = options_.seconds;
    if (writes) RETURN_IF_ERROR(engine_->Checkpoint());
    auto tally = std::make_unique<DriveTally>();
    RETURN_IF_ERROR(Begin());
    RETURN_IF_ERROR(engine_->Run(spec, tally.get()));
    total_inserts_ += tally->inserts;
    return End(*tally, writes);
  }

  // A run that is not reported. Returns its operations per second.
  Result<double> Extra(DriveSpec spec) {
    spec.records += total_inserts_;
    auto tally = std::make_unique<DriveTally>();
    RETURN_IF_ERROR(engine_->Run(spec, tally.get()));
    total_inserts_ += tally->inserts;
    return static_cast<double>(tally->ops) / std::max(tally->seconds, 1e-9);
  }

  Status Begin() {
    ResetPeakMemory();
    ASSIGN_OR_RETURN(io_before_, ReadProcessIo());
    device_before_bytes_ = DeviceWrittenBytes(dir_);
    cpu_before_s_ = ProcessCpuSeconds();
    return Status();
  }

  // Puts are charged with everything that they make the engine write, including the writes after
  // the run. So the checkpoint comes before the final count.
  Status End(const DriveTally& tally, bool writes) {
    m_.cpu_s = ProcessCpuSeconds() - cpu_before_s_;
    ASSIGN_OR_RETURN(ProcessIo after, ReadProcessIo());
    m_.read_bytes = after.read_bytes - io_before_.read_bytes;
    m_.peak_memory_bytes = PeakMemoryBytes();
    if (writes) {
      RETURN_IF_ERROR(engine_->Checkpoint());
      RETURN_IF_ERROR(SyncFileSystem(dir_));
      ASSIGN_OR_RETURN(after, ReadProcessIo());
    }
    m_.written_bytes = after.written_bytes - io_before_.written_bytes;
    m_.Take(tally);
    if (m_.ops > 0) m_.read_bytes_per_op = static_cast<double>(m_.read_bytes) / static_cast<double>(m_.ops);
    if (m_.user_bytes_written > 0) {
      const auto user = static_cast<double>(m_.user_bytes_written);
      m_.write_amplification = static_cast<double>(m_.written_bytes) / user;
      m_.device_written_bytes = DeviceWrittenBytes(dir_) - device_before_bytes_;
      m_.device_write_amplification = static_cast<double>(m_.device_written_bytes) / user;
    }
    return Status();
  }

  const EngineBenchOptions& options_;
  const EngineInfo& info_;
  const EngineWorkload& workload_;
  const std::string dir_;
  const uint64_t records_;
  const int run_;
  std::unique_ptr<EngineUnderTest> engine_;
  EngineMeasurement m_;
  uint64_t total_inserts_ = 0;
  ProcessIo io_before_;
  uint64_t device_before_bytes_ = 0;
  double cpu_before_s_ = 0;
};

void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

// Reads until the end of the stream. Returns false when `timeout_s` passes first. It also watches
// the clock to detect that the machine (a virtual machine) was paused: this process is otherwise
// idle, so a long gap between two readings means that the whole machine did not run.
bool ReadAll(int fd, uint32_t timeout_s, std::string* out, double* paused_s) {
  const int64_t give_up_ns = MonotonicNs() + int64_t{timeout_s} * 1'000'000'000;
  char buffer[16 << 10];
  for (int64_t last_ns = MonotonicNs();;) {
    pollfd p{fd, POLLIN, 0};
    const int ready = ::poll(&p, 1, kWatchMs);
    const int64_t now_ns = MonotonicNs();
    if (now_ns - last_ns > kPauseNs) *paused_s += static_cast<double>(now_ns - last_ns) * 1e-9;
    last_ns = now_ns;
    if (now_ns > give_up_ns) return false;
    if (ready <= 0) continue;
    ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n <= 0) return true;
    out->append(buffer, static_cast<size_t>(n));
  }
}

// Runs `measuring` in a child process.
Result<EngineMeasurement> InProcess(Measuring measuring, const MemoryCgroup* cgroup, uint32_t timeout_s) {
  int ends[2];
  if (::pipe(ends) != 0) return ErrnoError(errno, "create a pipe");
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoError(errno, "fork the measuring process");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(ends[0]);
    FLAGS_minloglevel = google::GLOG_WARNING;
    auto run = [&]() -> Result<EngineMeasurement> {
      if (cgroup != nullptr) RETURN_IF_ERROR(cgroup->Enter());
      return measuring.Run();
    };
    Result<EngineMeasurement> result = run();
    nlohmann::json answer;
    if (result.ok()) {
      answer["measurement"] = *result;
    } else {
      answer["error"] = result.status().message();
    }
    WriteAll(ends[1], answer.dump());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  double paused_s = 0;
  const bool ended = ReadAll(ends[0], timeout_s, &text, &paused_s);
  ::close(ends[0]);
  if (!ended) ::kill(pid, SIGKILL);
  int how = 0;
  ::waitpid(pid, &how, 0);
  if (!ended)
    return Error(Code::kDeadline,
                 "there is no result after {} s, so the measuring process was killed; raise --timeout_s", timeout_s);
  nlohmann::json answer = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (answer.is_discarded()) {
    return Error(Code::kAborted, "the measuring process ended without a result ({} {})",
                 WIFSIGNALED(how) ? "signal" : "exit code", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
  }
  if (answer.contains("error")) return Error(Code::kIoError, "{}", answer["error"].get<std::string>());
  auto measurement = answer["measurement"].get<EngineMeasurement>();
  measurement.machine_paused_s = paused_s;
  return measurement;
}

class Bench {
 public:
  Bench(const EngineBenchOptions& options, const std::function<void(const EngineMeasurement&)>& sink)
      : options_(options), sink_(sink) {}
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    std::error_code ignored;
    if (!root_.empty() && !options_.keep) fs::remove_all(root_, ignored);
  }

  Status Run() {
    root_ = options_.dir + "/kvbench-engine-XXXXXX";
    if (::mkdtemp(root_.data()) == nullptr) {
      root_.clear();
      return ErrnoError(errno, "create a directory in {}", options_.dir);
    }
    for (const std::string& name : options_.workloads) {
      const EngineWorkload& workload = *FindEngineWorkload(name);
      for (int run = 1; run <= options_.repeat; ++run) {
        for (size_t i = 0; i < options_.engines.size(); ++i) {
          const EngineInfo& engine = *FindEngine(options_.engines[i]);
          // fio can only be compared with random gets and with scans of everything.
          if (engine.role == "disk" && workload.name != "get" && workload.name != "scan-full") continue;
          Status status = workload.kind == EngineWorkload::Kind::kLoad ? Load(engine, workload, run)
                                                                       : MeasureOnce(engine, workload, run);
          if (status.ok()) continue;
          // Continue with the other measurements: a failure is a result too.
          tools::PrintNote("{} {}: {}\n", workload.name, engine.name, status.message());
          if (first_error_.ok())
            first_error_ = Error(status.code(), "{} {}: {}", workload.name, engine.name, status.message());
        }
      }
    }
    return first_error_;
  }

 private:
  std::string StoreOf(const EngineInfo& engine) const { return root_ + "/" + engine.name; }

  // A load goes to a new directory. The store of the first successful random load is kept for the
  // other workloads.
  Status Load(const EngineInfo& engine, const EngineWorkload& workload, int run) {
    const std::string fresh = StoreOf(engine) + ".load";
    fs::create_directories(fresh);
    Result<EngineMeasurement> m = Measure(engine, workload, fresh, options_.records, run);
    const bool keep = m.ok() && !workload.sorted && !fs::exists(StoreOf(engine));
    if (keep) {
      fs::rename(fresh, StoreOf(engine));
    } else {
      fs::remove_all(fresh);
    }
    if (!m.ok()) return m.TakeStatus();
    sink_(*m);
    return Status();
  }

  Status MeasureOnce(const EngineInfo& engine, const EngineWorkload& workload, int run) {
    if (!fs::exists(StoreOf(engine))) RETURN_IF_ERROR(LoadSilently(engine));
    uint64_t* records = &records_.try_emplace(engine.name, options_.records).first->second;
    for (int tries = 1;; ++tries) {
      ASSIGN_OR_RETURN(EngineMeasurement m, Measure(engine, workload, StoreOf(engine), *records, run));
      *records += m.inserts;
      if (m.machine_paused_s > 0) {
        tools::PrintNote("{} {}: the machine was paused for {:.1f} s{}\n", workload.name, engine.name,
                         m.machine_paused_s, tries < kTries ? "; measuring again" : "");
        if (tries < kTries) continue;
      }
      sink_(m);
      return Status();
    }
  }

  Status LoadSilently(const EngineInfo& engine) {
    const std::string fresh = StoreOf(engine) + ".load";
    fs::create_directories(fresh);
    ASSIGN_OR_RETURN(EngineMeasurement m,
                     Measure(engine, *FindEngineWorkload("load-random"), fresh, options_.records, 1));
    fs::rename(fresh, StoreOf(engine));
    tools::PrintNote("loaded {} records into {} in {:.1f} s\n", m.ops, engine.name, m.seconds);
    return Status();
  }

  Result<EngineMeasurement> Measure(const EngineInfo& engine, const EngineWorkload& workload, const std::string& dir,
                                    uint64_t records, int run) {
    std::unique_ptr<MemoryCgroup> cgroup;
    std::string note;
    if (engine.uses_page_cache && !workload.in_memory) {
      Result<std::unique_ptr<MemoryCgroup>> made = MemoryCgroup::Make(MemoryFor(options_, workload));
      if (made.ok()) {
        cgroup = *std::move(made);
      } else if (workload.kind != EngineWorkload::Kind::kLoad && !options_.unlimited_page_cache) {
        return Error(Code::kUnsupported,
                     "skipped, because its page cache cannot be limited here ({}); to measure it without a limit, use "
                     "--unlimited_page_cache",
                     made.status().message());
      } else {
        note = "page cache not limited";
      }
    }
    // Cached pages that another process read are not charged to this cgroup and escape its limit.
    if (!workload.in_memory) DropPageCache(dir);
    Result<EngineMeasurement> m =
        InProcess(Measuring(options_, engine, workload, dir, records, run), cgroup.get(), options_.timeout_s);
    DropPageCache(dir);
    if (!m.ok()) return m;
    m->note = note;
    m->memory_unlimited = !note.empty();
    if (m->machine_paused_s > 0) m->note += note.empty() ? "machine paused" : ", machine paused";
    return m;
  }

  const EngineBenchOptions& options_;
  const std::function<void(const EngineMeasurement&)>& sink_;
  std::string root_;
  std::map<std::string, uint64_t> records_;  // in the store of each engine, including inserts
  Status first_error_;
};

}  // namespace

Status RunEngineBench(const EngineBenchOptions& options, const std::function<void(const EngineMeasurement&)>& sink) {
  Bench bench(options, sink);
  return bench.Run();
}

}  // namespace pando::bench
