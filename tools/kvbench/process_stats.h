// Reads the kernel's statistics about a process and its files: I/O, memory, CPU time and disk
// space. MemoryCgroup limits the memory of engines that rely on the kernel's page cache.
//
// Threads: any. The numbers are those of the whole process.
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
  // Direct I/O counts as written when it happens, buffered I/O when it makes pages dirty. A kernel
  // with large folios counts the whole folio, so small buffered writes look larger than what
  // reaches the device.
  uint64_t read_bytes = 0, written_bytes = 0;
};
// Parses the text of /proc/PID/io. kCorruption when a field is missing.
Result<ProcessIo> ParseProcessIo(std::string_view text);
Result<ProcessIo> ReadProcessIo();

// Parses a "Name:  123 kB" line of /proc/PID/status. The result is in bytes.
std::optional<uint64_t> ParseStatusBytes(std::string_view text, std::string_view name);
uint64_t PeakMemoryBytes();
void ResetPeakMemory();  // resets the peak to what is resident now
double ProcessCpuSeconds();

// Parses the stolen time from the text of /proc/stat: the time since boot, summed over all CPUs,
// that this machine wanted to run but its hypervisor ran something else. A measurement with much
// stolen time is not reliable.
std::optional<double> ParseStolenCpuSeconds(std::string_view text);
double StolenCpuSeconds();  // 0 if unknown

// The bytes that all processes together wrote to a block device. ParseDeviceWrittenBytes takes the
// text of the device's `stat` file, DeviceWrittenBytes a path on a file system of the device.
std::optional<uint64_t> ParseDeviceWrittenBytes(std::string_view text);
uint64_t DeviceWrittenBytes(const std::string& path);  // 0 if unknown

struct DirectoryUse {
  uint64_t data_bytes = 0, log_bytes = 0;  // allocated on the file system
};
// Measures the files below `dir`. A file counts as log when a component of its path below `dir`
// begins with one of `log_names`.
DirectoryUse MeasureDirectory(const std::string& dir, const std::vector<std::string>& log_names);
// SyncFileSystem writes out all dirty data of the file system of `dir`. DropPageCache drops the
// clean cached pages of the files below `dir`, so call SyncFileSystem first.
Status SyncFileSystem(const std::string& dir);
void DropPageCache(const std::string& dir);

// Parses the text of /proc/PID/cgroup. Returns the process's path in the hierarchy that has
// `controller` ("" = the version 2 hierarchy), or nothing when there is none.
std::optional<std::string> ParseCgroupPath(std::string_view text, std::string_view controller);

// A cgroup (version 2 if possible, else version 1) with a memory limit, which includes the page
// cache of its members. The destructor removes the cgroup. All members must have ended before.
class MemoryCgroup {
 public:
  // kUnsupported when this process may not create a cgroup with the memory controller.
  static Result<std::unique_ptr<MemoryCgroup>> Make(uint64_t limit_bytes);
  ~MemoryCgroup();
  Status Enter() const;  // moves the calling process into the cgroup

 private:
  static std::unique_ptr<MemoryCgroup> MakeBelow(const std::string& directory, const char* limit_file,
                                                 uint64_t limit_bytes);
  explicit MemoryCgroup(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace pando::bench
