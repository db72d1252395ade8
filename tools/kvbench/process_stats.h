// What the kernel knows about a process and its files: bytes moved, memory, space on disk. And a memory cgroup, for
// engines whose cache is the kernel's.
//
// Threads: any; the numbers are of the whole process.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace pando::bench {

struct ProcessIo {
  // Written: direct I/O as it happens, buffered I/O when pages are made dirty. A kernel with large folios counts a
  // whole folio for each, so that small buffered writes look larger than what reaches the device.
  uint64_t read_bytes = 0, written_bytes = 0;
};
// From the text of /proc/PID/io. kCorruption when a field is missing.
Result<ProcessIo> ParseProcessIo(std::string_view text);
Result<ProcessIo> ReadProcessIo();

// A "Name:  123 kB" line of /proc/PID/status, in bytes.
std::optional<uint64_t> ParseStatusBytes(std::string_view text, std::string_view name);
uint64_t PeakMemoryBytes();
void ResetPeakMemory();  // the peak starts again from what is resident now
double ProcessCpuSeconds();

// Time that all CPUs of this machine wanted to run and its hypervisor ran something else, since boot, from the text of
// /proc/stat: a measurement that lost much of it says more about the neighbours.
std::optional<double> ParseStolenCpuSeconds(std::string_view text);
double StolenCpuSeconds();  // 0 where it cannot be told

// Bytes that the block device below `path` has been told to write, by everybody. From the text of its `stat` file.
std::optional<uint64_t> ParseDeviceWrittenBytes(std::string_view text);
uint64_t DeviceWrittenBytes(const std::string& path);  // 0 where it cannot be told

struct DirectoryUse {
  uint64_t data_bytes = 0, log_bytes = 0;  // allocated on the file system
};
// Files below `dir`; those whose path below it has a part that begins with one of `log_names` count as log.
DirectoryUse MeasureDirectory(const std::string& dir, const std::vector<std::string>& log_names);
// Writes out what the file system of `dir` has pending; then `DropPageCache` can forget the files' cached pages.
Status SyncFileSystem(const std::string& dir);
void DropPageCache(const std::string& dir);

// A process's path in the hierarchy that has `controller` ("" = version 2's), from the text of its /proc/PID/cgroup;
// nothing when it has none.
std::optional<std::string> ParseCgroupPath(std::string_view text, std::string_view controller);

// A cgroup (version 2, else 1) with a memory limit, which holds the page cache of its members too. Removed when
// destroyed, which must be after its members have ended.
class MemoryCgroup {
 public:
  // kUnsupported says what is missing.
  static Result<std::unique_ptr<MemoryCgroup>> Make(uint64_t limit_bytes);
  ~MemoryCgroup();
  Status Enter() const;  // the calling process

 private:
  static std::unique_ptr<MemoryCgroup> MakeBelow(const std::string& directory, const char* limit_file,
                                                 uint64_t limit_bytes);
  explicit MemoryCgroup(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace pando::bench
