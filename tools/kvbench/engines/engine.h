// EngineUnderTest: an embedded storage engine as the benchmark sees it. One file per engine.
//
// Pando is asynchronous and drives all clients of a run on one reactor; the peers block, and are driven with one thread
// per client (blocking_engine.h). Both draw the same operations and record them the same way (drive.h).
//
// Threads: every method is called on one thread, the one that called Open.
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
  std::string dir;               // exists; empty for a new store, or what this engine left there
  uint64_t memory_bytes = 0;     // everything it may allocate: caches, write buffers
  uint32_t page_bytes = 0;       // Pando; 0 = its default
  uint32_t partitions = 1;       // Pando
  uint64_t log_bytes = 0;        // of log kept before a checkpoint must free it, where the engine has such a limit
  uint32_t clients = 64;         // at most so many at a time
  uint32_t background_jobs = 2;  // threads for compaction and the like: the cores it may use
  BenchCompression compression = BenchCompression::kNone;
};

class EngineUnderTest {
 public:
  virtual ~EngineUnderTest() = default;

  virtual Status Open(const EngineSettings& settings) = 0;
  // Puts all records, in batches that are on disk when they are counted. Latencies are those of whole batches.
  virtual Status Load(const LoadSpec& spec, DriveTally* tally) = 0;
  // Does what `spec` says. Every put is on disk when it counts as done, every value read is copied out once and
  // checked.
  virtual Status Run(const DriveSpec& spec, DriveTally* tally) = 0;
  // Brings everything to where the engine keeps it in the end: checkpoints, or flushes and lets compactions finish.
  virtual Status Checkpoint() = 0;
  virtual Status Close() = 0;
  // What is worth a line beside the figures, e.g. counts of checkpoints and stalls.
  virtual std::string Stats() = 0;
};

struct EngineInfo {
  std::string name;
  std::string role = "peer";  // or "pando"; or "disk": no engine, but what the disk gives
  std::string package;        // Debian's, that must be installed to build it in; "" = always there
  std::function<std::unique_ptr<EngineUnderTest>()> make;  // null: not built in
  std::string version;
  uint32_t page_bytes = 0;             // Pando with pages of this size; 0 = as the settings say
  bool blocking = true;                // one thread per client; else one thread for all
  bool uses_page_cache = false;        // its memory can only be limited from outside
  std::vector<std::string> log_names;  // files or folders whose names begin so are its log
};

// All engines there are, whether built in or not; Pando first: as it is, and with each size of pages.
const std::vector<EngineInfo>& AllEngines();
// Null when there is none of that name.
const EngineInfo* FindEngine(std::string_view name);

EngineInfo PandoEngineInfo(std::string name, uint32_t page_bytes);
EngineInfo RocksDbEngineInfo();
EngineInfo LmdbEngineInfo();
EngineInfo WiredTigerEngineInfo();
EngineInfo FioEngineInfo();

}  // namespace pando::bench
