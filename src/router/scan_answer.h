// ScanAnswer: what a node has answered to scanPartitions. Everything but the rows is decoded. The rows stay as they
// came, and a router that has nothing to merge passes their bytes on. They are in the same form in its own reply.
//
// Nothing is taken on trust: rows are walked over with bounds, and one that cannot be read fails the whole answer.
//
// Threads: one reactor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gen-cpp/Routing.h"
#include "src/base/memory_budget.h"
#include "src/kvapi/row_walk.h"
#include "src/rpc/rpc_client.h"

namespace pando {

// `success.rows` stays empty.
struct ScanAnswer : api::Routing_scanPartitions_result {
  std::string_view rows() const { return std::string_view(frame).substr(rows_begin, rows_bytes); }

  std::string frame;  // which has the rows
  size_t rows_begin = 0, rows_bytes = 0;
  uint32_t row_count = 0;
};

// `body`: the answer, in the binary protocol. Takes `*storage`, which has it and little else, or copies the body.
// `memory` (null: not counted) grows before anything is kept. kOverloaded: it cannot. kUnavailable: the answer
// cannot be read.
Status ReadScanAnswer(std::string_view body, std::string* storage, ThriftCodec* codec, MemoryGrant* memory,
                      size_t entry_bytes, ScanAnswer* answer);

// A call of scanPartitions.
struct ScanExchange final : RpcExchange {
  ScanAnswer* reply = nullptr;
  MemoryGrant* memory = nullptr;
  size_t entry_bytes = kReplyEntryBytes;
  Status OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) override;
};

}  // namespace pando
