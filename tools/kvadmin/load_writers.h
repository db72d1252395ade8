// LoadWriters stores records through BatchWriters: one for a node that is alone, and for a cluster one for each
// partition, with a connection of its own, because each partition has its own master.
//
// A key always belongs to the same writer, so the later record of a key wins in a cluster too (W1).
//
// Threads: one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/kvadmin/batch_writer.h"

namespace pando::admin {

class LoadWriters {
 public:
  // More connections than this are not opened: a larger cluster is loaded through a router.
  static constexpr uint32_t kMaxPartitions = 256;

  // `partitions`: of the cluster, a power of two; 0: there is one server, that of `client`.
  LoadWriters(Client& client, uint32_t partitions, const BatchWriterOptions& options,
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
  std::vector<std::unique_ptr<BatchWriter>> writers_;  // by partition
};

}  // namespace pando::admin
