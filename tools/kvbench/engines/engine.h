// EngineUnderTest: the benchmark's interface to an embedded storage engine. One file per engine.
//
// Threads: every method is called on the thread that called Open.
//
// Pando is asynchronous and drives all clients of a run on one reactor. The peers block, so each
// client has its own thread (blocking_engine.h). Both draw the same operations and record them in
// the same way (drive.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/kvbench/engines/drive.h"

namespace pando::bench {

enum class BenchCompression : uint8_t { kNone, kLz4 };

struct EngineSettings {
  std::string dir;            // exists; empty for a new store, else holds this engine's store
  uint64_t memory_bytes = 0;  // limit of all memory that it allocates: caches, write buffers
  uint32_t page_bytes = 0;    // Pando only; 0 = its default
  uint32_t partitions = 1;    // Pando only
  // The size of the log at which a checkpoint must free it, where the engine has such a limit. 0 =
  // the engine's default.
  uint64_t log_bytes = 0;
  uint32_t clients = 64;         // the largest number of concurrent clients
  uint32_t background_jobs = 2;  // threads for compaction and the like: the cores it may use
  BenchCompression compression = BenchCompression::kNone;
};

class EngineUnderTest {
 public:
  virtual ~EngineUnderTest() = default;

  virtual Status Open(const EngineSettings& settings) = 0;
  // Puts all records in batches. A batch counts as done when it is on disk. Latencies are those of
  // whole batches.
  virtual Status Load(const LoadSpec& spec, DriveTally* tally) = 0;
  // Runs the operations of `spec`. A put counts as done when it is on disk. Every value read is
  // copied out once and checked.
  virtual Status Run(const DriveSpec& spec, DriveTally* tally) = 0;
  // Moves all data to its final place: writes a checkpoint, or flushes and waits for compactions.
  virtual Status Checkpoint() = 0;
  virtual Status Close() = 0;
  // A line of statistics for the report, such as the counts of checkpoints and stalls.
  virtual std::string Stats() = 0;
};

struct EngineInfo {
  std::string name;
  std::string role = "peer";  // or "pando"; or "disk": not an engine, but the disk's own speed
  std::string package;        // the Debian package that it is built with; "" = none needed
  std::function<std::unique_ptr<EngineUnderTest>()> make;  // null: not built in
  std::string version;
  uint32_t page_bytes = 0;             // Pando's page size; 0 = that of the settings
  bool blocking = true;                // one thread per client; else one thread for all clients
  bool uses_page_cache = false;        // only a cgroup can limit its memory
  std::vector<std::string> log_names;  // prefixes of the names of its log files or directories
};

// All known engines, whether they are built in or not. Pando comes first, with its default page
// size and then with each page size.
const std::vector<EngineInfo>& AllEngines();
// Null when no engine has this name.
const EngineInfo* FindEngine(std::string_view name);

EngineInfo PandoEngineInfo(std::string name, uint32_t page_bytes);
EngineInfo RocksDbEngineInfo();
EngineInfo LmdbEngineInfo();
EngineInfo WiredTigerEngineInfo();
EngineInfo FioEngineInfo();

}  // namespace pando::bench
