// BlockingEngine: an engine with blocking calls. Each client has its own thread.
//
// Threads: Open, Load, Run, Checkpoint and Close are called on one thread. NewSession is called on
// the clients' threads, several at a time. A Session belongs to the thread that created it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

// The access of one client to the engine.
class Session {
 public:
  virtual ~Session() = default;
  virtual Result<bool> Get(std::string_view key, std::string* value) = 0;  // false: no record
  // Returns when the record is on disk.
  virtual Status Put(std::string_view key, std::string_view value) = 0;
  // Copies up to `rows` records, starting at key `from`, to `out`, each as its key followed by its
  // value. Returns the number of records.
  virtual Result<uint32_t> Scan(std::string_view from, uint32_t rows, std::string* out) = 0;
  virtual Status PutBatch(const LoadSource::Batch& batch) = 0;  // returns when all are on disk
};

class BlockingEngine : public EngineUnderTest {
 public:
  Status Load(const LoadSpec& spec, DriveTally* tally) final;
  Status Run(const DriveSpec& spec, DriveTally* tally) final;

 protected:
  virtual Result<std::unique_ptr<Session>> NewSession() = 0;
};

}  // namespace pando::bench
