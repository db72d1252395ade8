#include "tools/kvadmin/load_writers.h"

#include <algorithm>
#include <utility>

namespace pando::admin {

LoadWriters::LoadWriters(Client& client, std::optional<RangeTable> partitions, const BatchWriterOptions& options,
                         const BatchWriter::OnRejected& on_rejected)
    : partitions_(std::move(partitions)) {
  if (!partitions_) {
    writers_.push_back(std::make_unique<BatchWriter>(client, options, on_rejected));
    return;
  }
  for (const uint32_t id : partitions_->ids()) {
    writer_of_[id] = writers_.size();
    clients_.push_back(std::make_unique<Client>(client.target()));
    writers_.push_back(std::make_unique<BatchWriter>(*clients_.back(), options, on_rejected));
  }
}

Status LoadWriters::Add(api::WriteOp op, uint64_t line) {
  const size_t writer = partitions_ ? writer_of_.at(partitions_->PartitionOf(op.key)) : 0;
  return writers_[writer]->Add(std::move(op), line);
}

Status LoadWriters::Finish() {
  Status first;
  for (const auto& writer : writers_) {
    Status status = writer->Finish();
    if (first.ok()) first = std::move(status);
  }
  return first;
}

void LoadWriters::Collect() {
  for (const auto& writer : writers_) writer->Collect();
}

uint64_t LoadWriters::Sum(uint64_t (BatchWriter::*count)() const) const {
  uint64_t sum = 0;
  for (const auto& writer : writers_) sum += (writer.get()->*count)();
  return sum;
}

uint64_t LoadWriters::first_unsettled_line() const {
  uint64_t first = 0;
  for (const auto& writer : writers_) {
    const uint64_t line = writer->first_unsettled_line();
    if (line != 0) first = first == 0 ? line : std::min(first, line);
  }
  return first;
}

}  // namespace pando::admin
