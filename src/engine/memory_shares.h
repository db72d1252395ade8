// How an engine divides its memory among its parts, and for how many partitions it has some.
//
// Threads: pure functions.
//
// Invariants: E2 of engine.h.
#pragma once

#include "src/buffer_pool/buffer_pool.h"
#include "src/engine/engine.h"
#include "src/partition/partition_state.h"

namespace pando {

// What is left for the pool.
BufferPoolOptions PoolOptionsOf(const EngineOptions& options);
// How many partitions there may be at a time.
uint64_t MaxPartitions(const EngineOptions& options);
// For the changes of one partition.
uint64_t ChangeTailBytes(const EngineOptions& options);
// So many ends of units may each partition remember (UnitHistory), if it is one replica of several.
size_t HistoryPoints(const EngineOptions& options);
// LogOptions::reader_ring_bytes.
uint64_t ReaderRingBytes(const EngineOptions& options);
// WQ2, for one partition. All tails together stay within a quarter of the log's budget, so that the rest
// goes on even if nothing can be committed.
UncommittedLimits UncommittedLimitsOf(const EngineOptions& options);
// The most extents that all lists together may have. Those that snapshots retain may take three quarters
// of it, those that wait for checkpoints the rest.
uint64_t MaxListedExtents(const EngineOptions& options);
// kInvalidArgument: the memory, or the log's segments, are too small for the partitions.
Status CheckMemory(const EngineOptions& options);

}  // namespace pando
