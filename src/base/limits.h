// Limits that apply to every layer. The `hello` method reports them to clients.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pando {

inline constexpr size_t kBlockBytes = 4096;   // unit of disk allocation and O_DIRECT transfers
inline constexpr size_t kMaxKeyBytes = 2048;  // of a request
inline constexpr size_t kNamespaceBytes = 4;  // in front of a stored key (key_space.h)
inline constexpr size_t kMaxStoredKeyBytes = kNamespaceBytes + kMaxKeyBytes;
inline constexpr size_t kMaxValueBytes = 1u << 20;
inline constexpr size_t kMaxClientIdBytes = 64;
inline constexpr size_t kMaxBatchOps = 1024;
inline constexpr size_t kMaxWriteOps = kMaxBatchOps + 1;  // with the name of the write
// The keys and values of one writeBatch, which is atomic within each partition.
inline constexpr size_t kMaxBatchBytes = 2u << 20;
inline constexpr size_t kMaxMultiGetKeys = 1024;
inline constexpr size_t kMaxFrameBytes = 4u << 20;  // one Thrift frame, in either direction
inline constexpr size_t kMaxScanRows = 10'000;
inline constexpr size_t kMaxScanBytes = 2u << 20;

}  // namespace pando
