// What the log says of an operation: its record, and the digest by which a write that is sent again
// is known to be the same one (lane.h).
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "src/model/types.h"

namespace pando {

// The record that asks for `op`. It points into `op`.
LogRecord RecordOf(const WriteOp& op, Version version);

// A digest of what the client asks for (docs/FORMAT.md, "Lane"). It does not depend on when it
// does: a TTL is digested as such. `scratch` is empty before and after; it holds one record at a
// time meanwhile.
uint64_t DigestOf(std::span<const WriteOp> ops, bool all_or_nothing, std::string* scratch);

}  // namespace pando
