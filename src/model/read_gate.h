// ReadGate: says whether a replica may answer reads of the newest state. A replica of several may while
// it is master and holds its lease; the only replica always may, and has no gate. Reads that may be answered
// by any replica wait with Await until this one has what they ask for.
//
// A read takes a Mastership, then looks at the data, then asks Check. Only then may its answer leave.
// Reads of snapshots need none of this: what they show was committed.
//
// Threads: that of the partitions.
#pragma once

#include <cstdint>
#include <optional>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/model/types.h"

namespace pando {

// What a read belongs to: an epoch, and the process that was master in it.
struct Mastership {
  Epoch epoch = 0;
  uint64_t incarnation = 0;
  bool operator==(const Mastership&) const = default;
};

// What a read needs that need not come from the master.
struct ReplicaRead {
  std::optional<Nanos> max_staleness_ns;  // what was acknowledged so long before the read began
  std::optional<SessionPoint> after;      // what the session has seen
  Nanos deadline_ns = 0;
};

class ReadGate {
 public:
  // The mastership that serves now. kNotMaster (Status::master), kUnavailable: there is none here.
  virtual Result<Mastership> Begin(uint32_t partition) const = 0;
  // Whether that mastership still holds, by a clock that is read now: after the look at the data.
  virtual Status Check(uint32_t partition, const Mastership& mastership) const = 0;
  // The same in one, for reads that do not suspend, and with a clock that was read after them. False: Begin
  // and Check say why.
  virtual bool Holds(uint32_t partition, Nanos fresh_now_ns) const = 0;

  // -- reads that any replica may answer: they look at the data after Await, and ask nothing more, because
  // what is applied stays applied.
  // kTooStale: not in time (Status::master). kSessionLost: never. kUnavailable: the replica here is not in service.
  virtual Task<Status> Await(uint32_t, ReplicaRead) { co_return Status(); }
  // Where the history ends that a read sees which looks at the data now. Nothing: the partition is not here.
  virtual std::optional<SessionPoint> Shown(uint32_t) const { return std::nullopt; }
  // The point is not, and never will be, in the history that this replica has applied.
  virtual bool IsLost(uint32_t, const SessionPoint&) const { return false; }

 protected:
  ~ReadGate() = default;
};

}  // namespace pando
