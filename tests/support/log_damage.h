// Breaks the history of one partition in a log at rest, under checksums that are correct: a fault of
// the program, not of the disk.
#pragma once

#include <cstring>
#include <string>

#include "src/wal/log_format.h"
#include "tests/support/sim_disk.h"

namespace pando {

// Changes the chain of the first unit of `partition` at or above `lsn`. `directory` is the log's.
// Returns false if there is none.
inline bool BreakUnit(SimDisk* disk, const std::string& directory, const Uuid& node, const Uuid& partition, Lsn lsn) {
  const uint64_t seed = LogChecksumSeed(node);
  bool broken = false;
  for (const std::string& path : disk->AllFiles()) {  // sorted, so by number
    if (!path.starts_with(directory + "/segment-")) continue;
    std::string image = disk->ReadAll(path);
    uint64_t number = 0;
    std::memcpy(&number, image.data() + offsetof(SegmentHeader, segment_number), sizeof(number));
    bool changed = false;
    for (uint64_t at = kFirstGroupOffset; at < image.size(); at += kBlockBytes) {
      BatchView batch;
      if (DecodeBatch(image, number, at, seed, &batch) != BatchState::kValid) continue;
      BatchHeader header = batch.header;
      char* const payload = image.data() + at + kBatchOverhead;
      bool here = broken;
      header.previous_checksum = broken ? 0 : header.previous_checksum;  // it has changed
      for (size_t offset = 0; !here && offset + sizeof(UnitHeader) <= header.payload_bytes;) {
        UnitHeader unit;
        std::memcpy(&unit, payload + offset, sizeof(unit));
        if (unit.kind != ItemKind::kUnit) {
          offset += unit.kind == ItemKind::kCut ? kCutBytes : kMarkBytes;
          continue;
        }
        here = unit.partition == partition && unit.first_lsn >= lsn;
        if (here) payload[offset + offsetof(UnitHeader, chain_before)] ^= 1;
        offset += UnitBytes(unit.record_bytes);
      }
      if (!here) continue;
      broken = changed = true;
      SealBatch(header, seed, header.payload_bytes, image.data() + at);
    }
    if (changed) disk->WriteAll(path, image);
  }
  return broken;
}

}  // namespace pando
