#include "tools/kvadmin/load_writers.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "src/base/hash.h"

namespace pando::admin {

LoadWriters::LoadWriters(Client& client, uint32_t partitions, const BatchWriterOptions& options,
                         const BatchWriter::OnRejected& on_rejected) {
  if (partitions == 0) {
    writers_.push_back(std::make_unique<BatchWriter>(client, options, on_rejected));
    return;
  }
  CHECK(std::has_single_bit(partitions)) << partitions;
  for (uint32_t i = 0; i < partitions; ++i) {
    clients_.push_back(std::make_unique<Client>(client.target()));
    writers_.push_back(std::make_unique<BatchWriter>(*clients_.back(), options, on_rejected));
  }
}

Status LoadWriters::Add(api::WriteOp op, uint64_t line) {
  const auto bits = static_cast<unsigned>(std::countr_zero(writers_.size()));
  const uint64_t partition = bits == 0 ? 0 : HashId(op.key) >> (64 - bits);
  return writers_[partition]->Add(std::move(op), line);
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
