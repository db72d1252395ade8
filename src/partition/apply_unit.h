// ApplyUnit: one write on its way through the WritePipeline and the Applier.
//
// Threads: one reactor.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/btree/tree.h"
#include "src/model/types.h"

namespace pando {

// A large value that an operation needs for its evaluation. It is read ahead of time, because all
// the large values that one write may need do not fit into memory together.
struct FoundValue {
  Extent location;
  bool equal = false;                // to the condition's value
  std::optional<std::string> bytes;  // empty if the reply has no room for it
};

struct ApplyUnit {
  std::vector<WriteOp>* ops = nullptr;
  WriteOptions options;
  std::vector<Version> versions;
  std::vector<Extent> extents;  // per operation: where its overflow value goes, or empty
  std::vector<PagePin> pins;
  std::vector<FoundValue> found;  // per operation, once MakeReady has run
  std::vector<OpResult> results;
  size_t reply_bytes = 0;  // of the values handed back
  Lsn last_lsn = 0;
};

}  // namespace pando
