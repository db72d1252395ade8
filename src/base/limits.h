// The limits that bind every layer and are published to clients by `hello`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pando {

inline constexpr size_t kBlockBytes = 4096;  // unit of disk allocation and of every O_DIRECT transfer
inline constexpr size_t kMaxKeyBytes = 2048;
inline constexpr size_t kMaxValueBytes = 1u << 20;
inline constexpr size_t kMaxBatchOps = 1024;
inline constexpr size_t kMaxBatchBytes = 2u << 20;  // keys + values of one writeBatch, per partition atomic
inline constexpr size_t kMaxMultiGetKeys = 1024;
inline constexpr size_t kMaxFrameBytes = 4u << 20;  // one Thrift frame, either direction
inline constexpr size_t kMaxScanRows = 10'000;
inline constexpr size_t kMaxScanBytes = 2u << 20;

}  // namespace pando
