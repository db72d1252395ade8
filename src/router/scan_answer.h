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
#include "src/router/binary_walker.h"
#include "src/rpc/rpc_client.h"

namespace pando {

// A row as it lies in an answer. Its fields ascend by ID, as generated code writes them, so none is there twice. One of
// another type is no field, as for generated code.
struct RowView {
  std::string_view encoded;  // the whole struct
  std::string_view key, value;
  int64_t version = 0, expires_at_ms = 0, value_bytes = 0;
  bool removed = false;
  size_t bytes() const { return key.size() + value.size(); }  // as ScanRow::bytes
};

// Rows that lie one after the other.
class RowWalk {
 public:
  explicit RowWalk(std::string_view rows) : rows_(rows), walker_(rows) {}
  // False: there is none, or it cannot be read (ok).
  bool Next(RowView* row);
  bool ok() const { return walker_.ok(); }
  size_t at() const { return walker_.at(); }  // the end of the last one

 private:
  const std::string_view rows_;
  BinaryWalker walker_;
};

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
