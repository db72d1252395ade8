// LoadWriters stores records through BatchWriters: one for a node that is alone, and for a cluster one for each
// partition, with a connection of its own, because each partition has its own master.
//
// A key always belongs to the same writer, so the later record of a key wins in a cluster too (W1).
//
// Threads: one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/base/hash_ranges.h"
#include "tools/kvadmin/batch_writer.h"

namespace pando::admin {

class LoadWriters {
 public:
  // More connections than this are not opened: a larger cluster is loaded through a router.
  static constexpr uint32_t kMaxPartitions = 256;

  // `partitions`: those of the cluster that serve; nullopt: there is one server, that of `client`.
  LoadWriters(Client& client, std::optional<RangeTable> partitions, const BatchWriterOptions& options,
              const BatchWriter::OnRejected& on_rejected);

  // See BatchWriter.
  Status Add(api::WriteOp op, uint64_t line);
  Status Finish();
  void Collect();
  uint64_t stored() const { return Sum(&BatchWriter::stored); }
  uint64_t expired() const { return Sum(&BatchWriter::expired); }
  uint64_t stored_bytes() const { return Sum(&BatchWriter::stored_bytes); }
  uint64_t first_unsettled_line() const;

 private:
  uint64_t Sum(uint64_t (BatchWriter::*count)() const) const;

  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<std::unique_ptr<BatchWriter>> writers_;
  std::optional<RangeTable> partitions_;
  std::unordered_map<uint32_t, size_t> writer_of_;  // the place in `writers_`, by partition
};

}  // namespace pando::admin
