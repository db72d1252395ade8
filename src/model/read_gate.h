// ReadGate: says whether a replica may answer reads of the newest state. A replica of several may while
// it is master and holds its lease; the only replica always may, and has no gate.
//
// A read takes a Mastership, then looks at the data, then asks Check. Only then may its answer leave.
// Reads of snapshots need none of this: what they show was committed.
//
// Threads: that of the partitions.
#pragma once

#include <cstdint>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/reactor.h"

namespace pando {

// What a read belongs to: an epoch, and the process that was master in it.
struct Mastership {
  Epoch epoch = 0;
  uint64_t incarnation = 0;
  bool operator==(const Mastership&) const = default;
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

 protected:
  ~ReadGate() = default;
};

}  // namespace pando
