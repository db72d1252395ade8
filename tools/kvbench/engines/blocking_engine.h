// BlockingEngine: an engine whose calls return when they are done, driven with one thread per client.
//
// Threads: Open, Load, Run, Checkpoint and Close on one thread. NewSession and LoadBatch are called on the clients'
// threads; a Session belongs to the thread that made it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tools/kvbench/engines/engine.h"

namespace pando::bench {

// One client's access.
class Session {
 public:
  virtual ~Session() = default;
  virtual Result<bool> Get(std::string_view key, std::string* value) = 0;  // false: no such record
  virtual Status Put(std::string_view key, std::string_view value) = 0;    // returns when it is on disk
  // Copies up to `rows` records from `from` on, key and value one after the other, to `out`; returns how many.
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
