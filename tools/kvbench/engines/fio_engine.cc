// fio as an engine: measures how many random reads the disk can do. A "get" is a random read of 4
// KiB, the size of most of Pando's reads, from a file as large as the live data. One read for each
// client is in flight. A step of `scan-full` is the next MiB of the file, with eight reads in flight.
// fio is not a peer. Its rate is the ceiling for `get` and `scan-full` when the data does not fit in
// memory, and is measured between the runs of the engines.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/kvbench/engines/engine.h"

namespace pando::bench {
namespace {

constexpr size_t kWriteBytes = 1 << 20;
constexpr uint32_t kReadBytes = 4096;
constexpr uint32_t kSequentialBytes = 1 << 20, kSequentialReads = 8;

class FioEngine final : public EngineUnderTest {
 public:
  Status Open(const EngineSettings& settings) override {
    path_ = settings.dir + "/reads";
    clients_ = settings.clients;
    return Status();
  }

  // Writes a file of random bytes, which no lower layer can compress.
  Status Load(const LoadSpec& spec, DriveTally* tally) override {
    const int64_t begin_ns = tally->begin_ns = MonotonicNs();
    std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path_.c_str(), "w"), std::fclose);
    if (!file) return ErrnoError(errno, "create {}", path_);
    std::vector<uint64_t> block(kWriteBytes / sizeof(uint64_t));
    uint64_t state = spec.seed | 1;
    const uint64_t bytes = spec.records * (spec.shape.key_bytes + spec.shape.value_bytes);
    for (uint64_t at = 0; at < bytes; at += kWriteBytes) {
      for (uint64_t& word : block) word = state = state * 6364136223846793005u + 1442695040888963407u;
      if (std::fwrite(block.data(), kWriteBytes, 1, file.get()) != 1) return ErrnoError(errno, "write {}", path_);
    }
    if (std::fflush(file.get()) != 0 || ::fsync(::fileno(file.get())) != 0) return ErrnoError(errno, "sync {}", path_);
    tally->ops = tally->rows = spec.records;
    tally->seconds = static_cast<double>(MonotonicNs() - begin_ns) * 1e-9;
    return Status();
  }

  Status Run(const DriveSpec& spec, DriveTally* tally) override {
    const bool gets = spec.mix.get == 100 && spec.mix.distribution == Distribution::kUniform;
    if ((!gets && !spec.mix.scan_full) || spec.rate > 0 || spec.read_all_once) {
      return Error(Code::kUnsupported,
                   "fio can only be compared with uniform gets, and with full scans, of data that does not fit in "
                   "memory");
    }
    tally->begin_ns = MonotonicNs();
    const std::string reads = gets ? fmt::format("--rw=randread --bs={} --iodepth={} --norandommap --randseed={}",
                                                 kReadBytes, clients_, spec.seed)
                                   : fmt::format("--rw=read --bs={} --iodepth={}", kSequentialBytes, kSequentialReads);
    const std::string command = fmt::format(
        "fio --name=reads --filename='{}' {} --ioengine=io_uring --direct=1 --time_based --runtime={}ms "
        "--output-format=json+ 2>&1",
        path_, reads, static_cast<int64_t>(spec.seconds * 1000));
    ASSIGN_OR_RETURN(std::string output, OutputOf(command));
    RETURN_IF_ERROR(TakeFigures(output, tally));
    if (!gets) tally->scanned_bytes = tally->ops * kSequentialBytes;
    return Status();
  }

  Status Checkpoint() override { return Status(); }
  Status Close() override { return Status(); }
  std::string Stats() override { return "reads by fio"; }

 private:
  static Result<std::string> OutputOf(const std::string& command) {
    FILE* pipe = ::popen(command.c_str(), "re");
    if (!pipe) return ErrnoError(errno, "run {}", command);
    std::string output;
    char buffer[4096];
    for (size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.append(buffer, n);
    const int how = ::pclose(pipe);
    if (WIFEXITED(how) && WEXITSTATUS(how) == 127) {
      return Error(Code::kUnsupported, "fio is not installed; install the Debian package fio (./dev bench does this)");
    }
    if (how != 0) return Error(Code::kIoError, "fio failed: {}", output);
    return output;
  }

  static Status TakeFigures(const std::string& output, DriveTally* tally) {
    const nlohmann::json all = nlohmann::json::parse(output, nullptr, /*allow_exceptions=*/false);
    try {
      const nlohmann::json& reads = all.at("jobs").at(0).at("read");
      for (const auto& [latency_ns, times] : reads.at("clat_ns").at("bins").items()) {
        tally->latency_ns.Record(std::stoull(latency_ns), times.get<uint64_t>());
      }
      tally->ops = reads.at("total_ios").get<uint64_t>();
      tally->seconds = reads.at("runtime").get<double>() / 1000;
    } catch (const std::exception& problem) {
      return Error(Code::kCorruption, "the output of fio does not have the expected form ({}): {}", problem.what(),
                   output);
    }
    return Status();
  }

  std::string path_;
  uint32_t clients_ = 0;
};

}  // namespace

EngineInfo FioEngineInfo() {
  EngineInfo info;
  info.name = "fio";
  info.role = "disk";
  info.blocking = false;
  info.make = [] { return std::make_unique<FioEngine>(); };
  return info;
}

}  // namespace pando::bench
