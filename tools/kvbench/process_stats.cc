#include "tools/kvbench/process_stats.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace pando::bench {

namespace {

namespace fs = std::filesystem;

constexpr const char* kCgroupRoots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
constexpr const char* kCgroupV1Memory = "/sys/fs/cgroup/memory";

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

bool WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  out.flush();
  return out.good();
}

// The number after "name:" at the beginning of a line.
std::optional<uint64_t> Field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    size_t digits = line.find_first_not_of(" \t", name.size() + 1);
    if (digits == std::string_view::npos) return std::nullopt;
    uint64_t value = 0;
    auto [end, error] = std::from_chars(line.data() + digits, line.data() + line.size(), value);
    if (error != std::errc()) return std::nullopt;
    return value;
  }
  return std::nullopt;
}

// The number at `index`, from 0, of a line of numbers separated by spaces.
std::optional<uint64_t> NumberAt(std::string_view line, int index) {
  const char* at = line.data();
  const char* const end = at + line.size();
  for (int field = 0;; ++field) {
    while (at != end && *at == ' ') ++at;
    uint64_t value = 0;
    auto [after, error] = std::from_chars(at, end, value);
    if (error != std::errc()) return std::nullopt;
    if (field == index) return value;
    at = after;
  }
}

}  // namespace

Result<ProcessIo> ParseProcessIo(std::string_view text) {
  std::optional<uint64_t> read = Field(text, "read_bytes"), written = Field(text, "write_bytes");
  std::optional<uint64_t> cancelled = Field(text, "cancelled_write_bytes");
  if (!read || !written || !cancelled) {
    return Error(Code::kCorruption, "/proc/self/io has no read_bytes, write_bytes or cancelled_write_bytes");
  }
  // Canceled writes are dirty pages of files that were removed before the pages were written.
  return ProcessIo{*read, *written - std::min(*written, *cancelled)};
}

Result<ProcessIo> ReadProcessIo() { return ParseProcessIo(ReadText("/proc/self/io")); }

std::optional<uint64_t> ParseStatusBytes(std::string_view text, std::string_view name) {
  std::optional<uint64_t> kib = Field(text, name);
  if (!kib) return std::nullopt;
  return *kib << 10;
}

uint64_t PeakMemoryBytes() { return ParseStatusBytes(ReadText("/proc/self/status"), "VmHWM").value_or(0); }

void ResetPeakMemory() { (void)WriteText("/proc/self/clear_refs", "5"); }

double ProcessCpuSeconds() {
  rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

std::optional<uint64_t> ParseDeviceWrittenBytes(std::string_view text) {
  constexpr int kWrittenSectors = 6;  // the seventh number, in units of 512 bytes for every device
  std::optional<uint64_t> sectors = NumberAt(text, kWrittenSectors);
  return sectors ? std::optional(*sectors * 512) : std::nullopt;
}

std::optional<double> ParseStolenCpuSeconds(std::string_view text) {
  constexpr int kSteal = 7;  // the eighth number of the first line, "cpu"
  if (!text.starts_with("cpu ")) return std::nullopt;
  std::optional<uint64_t> ticks = NumberAt(text.substr(4, text.find('\n') - 4), kSteal);
  return ticks ? std::optional(static_cast<double>(*ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK)))
               : std::nullopt;
}

double StolenCpuSeconds() { return ParseStolenCpuSeconds(ReadText("/proc/stat")).value_or(0); }

uint64_t DeviceWrittenBytes(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return 0;
  std::string text = ReadText(fmt::format("/sys/dev/block/{}:{}/stat", major(st.st_dev), minor(st.st_dev)));
  return ParseDeviceWrittenBytes(text).value_or(0);
}

DirectoryUse MeasureDirectory(const std::string& dir, const std::vector<std::string>& log_names) {
  DirectoryUse use;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir, ignored)) {
    struct stat st {};
    if (::lstat(entry.path().c_str(), &st) != 0 || !S_ISREG(st.st_mode)) continue;
    bool log = false;
    for (const fs::path& part : entry.path().lexically_relative(dir)) {
      for (const std::string& name : log_names) log = log || part.string().starts_with(name);
    }
    (log ? use.log_bytes : use.data_bytes) += static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return use;
}

Status SyncFileSystem(const std::string& dir) {
  int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "open {}", dir);
  int rc = ::syncfs(fd);
  int error = errno;
  ::close(fd);
  if (rc != 0) return ErrnoError(error, "sync the file system of {}", dir);
  return Status();
}

void DropPageCache(const std::string& dir) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir, ignored)) {
    int fd = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

std::optional<std::string> ParseCgroupPath(std::string_view text, std::string_view controller) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    line.remove_prefix(std::min(line.find(':'), line.size()));  // the hierarchy's number
    if (!line.starts_with(':')) continue;
    line.remove_prefix(1);
    const size_t end = line.find(":/");
    if (end == std::string_view::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(0, end));
    if (controllers.find(fmt::format(",{},", controller)) != std::string::npos)
      return std::string(line.substr(end + 1));
  }
  return std::nullopt;
}

// Creates a cgroup below `directory` and sets its limit. Null when either is not permitted.
std::unique_ptr<MemoryCgroup> MemoryCgroup::MakeBelow(const std::string& directory, const char* limit_file,
                                                      uint64_t limit_bytes) {
  std::string path = fmt::format("{}/kvbench-{}", directory, ::getpid());
  if (::mkdir(path.c_str(), 0755) != 0) return nullptr;
  std::unique_ptr<MemoryCgroup> group(new MemoryCgroup(path));
  if (!WriteText(path + "/" + limit_file, std::to_string(limit_bytes))) return nullptr;
  return group;
}

Result<std::unique_ptr<MemoryCgroup>> MemoryCgroup::Make(uint64_t limit_bytes) {
  const std::string own_groups = ReadText("/proc/self/cgroup");
  if (std::optional<std::string> own = ParseCgroupPath(own_groups, "")) {  // version 2
    for (const char* root : kCgroupRoots) {
      // A cgroup with members cannot have children with limits (except for the root), so create a
      // sibling of this process's cgroup or of one of its ancestors.
      for (fs::path parent = fs::path(*own).parent_path();; parent = parent.parent_path()) {
        std::string directory = std::string(root) + (parent == "/" ? "" : parent.string());
        if (ReadText(directory + "/cgroup.subtree_control").find("memory") != std::string::npos) {
          if (auto group = MakeBelow(directory, "memory.max", limit_bytes)) return group;
        }
        if (parent == "/" || parent.empty()) break;
      }
    }
  }
  if (std::optional<std::string> own = ParseCgroupPath(own_groups, "memory")) {
    // In a container the visible root of the hierarchy is the own cgroup, whatever the path says.
    for (const std::string& below : {*own, std::string()}) {
      if (auto group = MakeBelow(kCgroupV1Memory + below, "memory.limit_in_bytes", limit_bytes)) return group;
    }
  }
  return Error(Code::kUnsupported, "this process cannot create a cgroup with the memory controller");
}

MemoryCgroup::~MemoryCgroup() { ::rmdir(path_.c_str()); }

Status MemoryCgroup::Enter() const {
  if (WriteText(path_ + "/cgroup.procs", std::to_string(::getpid()))) return Status();
  return Error(Code::kUnsupported, "cannot move this process into the cgroup {}", path_);
}

}  // namespace pando::bench
