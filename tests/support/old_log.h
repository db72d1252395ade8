// Batches of log format 2, which is still read but no longer written.
//
// Threads: plain data and pure functions.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/wal/log_format.h"

namespace pando::log_test {

inline std::string EncodeOldBatch(BatchHeader header, uint64_t seed, std::string_view records) {
  header.magic = kBatchMagic;
  header.format_version = 2;
  header.payload_bytes = static_cast<uint32_t>(records.size());
  std::string batch(sizeof(header), '\0');
  StoreLE(batch.data(), header);
  batch += records;
  StoreLE(batch.data(), Hash64(std::string_view(batch).substr(sizeof(uint64_t)), seed));
  batch.resize(AlignUp(batch.size(), kBatchAlignment), '\0');
  return batch;
}

}  // namespace pando::log_test
