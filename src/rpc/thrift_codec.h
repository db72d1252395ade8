// ThriftCodec: framed Thrift messages to and from bytes, in the three encodings clients use, with the generated
// structs.
//
// The protocol is recognised from a frame's first byte: 0x80 strict binary, 0x82 compact, 0x00 the old binary without a
// version (its first byte is the top of a name length). Nothing else is Thrift.
//
// Decoding is bounded by the frame: a string claimed longer than the frame and a list claimed longer than
// kMaxContainerEntries are refused before anything is allocated. The entries of a list take many times the bytes that
// they have on the wire (an operation of a batch is one byte at least, its struct hundreds): what a list will take is
// reserved before it is allocated.
//
// Threads: one reactor; the codec keeps protocol objects so that a message allocates none.
#pragma once

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/protocol/TCompactProtocol.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/limits.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/rpc/frame_transport.h"

namespace pando {

enum class WireProtocol : uint8_t { kBinary, kOldBinary, kCompact };
using apache::thrift::TApplicationException;
using ThriftMessageType = apache::thrift::protocol::TMessageType;

// No list of the API may be longer than this; well above kMaxBatchOps and kMaxMultiGetKeys, whose excess then gets an
// error that names the exact limit.
inline constexpr int32_t kMaxContainerEntries = 16384;
// What an entry of a list costs until its request is answered: the decoded struct, what the handler makes of it, its
// result, and its part of the reply. (Strings count by themselves.)
inline constexpr size_t kListEntryBytes = 1024;
inline constexpr size_t kFrameHeaderBytes = 4;  // big-endian length before each frame
inline constexpr size_t kMaxMethodNameBytes = 64;

struct MessageHeader {
  WireProtocol protocol = WireProtocol::kBinary;
  ThriftMessageType type = apache::thrift::protocol::T_CALL;
  int32_t seqid = 0;
  std::string_view method;  // points into the frame
};

// Takes the header off `frame` (a frame's payload), leaving the arguments. kInvalidArgument when it is not Thrift.
Status DecodeMessageHeader(std::string_view* frame, MessageHeader* header);

// Lists in the frame being decoded are paid for from `memory`, when there is one.
struct ListBudget {
  MemoryGrant* memory = nullptr;
  bool refused = false;
  void Charge(uint32_t entries);  // throws when there is no memory
};

// One of Thrift's protocols, which asks before it lets a list be allocated.
template <typename Protocol>
class BudgetedProtocol final : public Protocol {
 public:
  template <typename... Args>
  explicit BudgetedProtocol(ListBudget* budget, Args&&... args)
      : Protocol(std::forward<Args>(args)...), budget_(budget) {}
  // Hides the one of the base class: the generated code is instantiated with this class.
  uint32_t readListBegin(apache::thrift::protocol::TType& type, uint32_t& entries) {
    const uint32_t bytes = Protocol::readListBegin(type, entries);
    budget_->Charge(entries);
    return bytes;
  }

 private:
  ListBudget* const budget_;
};

class ThriftCodec {
 public:
  ThriftCodec();

  // Reads generated struct `T` from `body`. Fields that are absent keep what `*value` held. kInvalidArgument says what
  // is wrong with the bytes; kOverloaded: `memory`, when given, cannot grow by what the lists in it will take.
  template <typename T>
  Status Read(WireProtocol protocol, std::string_view body, T* value, MemoryGrant* memory = nullptr) {
    transport_->SetInput(body);
    lists_ = {memory, false};
    // No string can be longer than the frame that holds it.
    auto limit = static_cast<int32_t>(body.size());
    try {
      if (protocol != WireProtocol::kCompact) {
        binary_->setStringSizeLimit(limit);
        value->read(binary_.get());
      } else if (limit <= kSmallFrameBytes) {
        value->read(compact_.get());
      } else {
        // The compact protocol takes its limit at birth, and keeps the largest string buffer it ever made.
        CompactProtocol large(&lists_, transport_, limit, kMaxContainerEntries);
        value->read(&large);
      }
      return {};
    } catch (const std::exception& e) {
      return ReadFailed(e);
    }
  }

  // Appends a whole frame. `Body` is a generated args or result struct.
  template <typename Body>
  void Write(const MessageHeader& header, const Body& body, std::string* out) {
    size_t start = BeginFrame(header, out);
    if (header.protocol == WireProtocol::kCompact) {
      body.write(compact_.get());
    } else {
      body.write(binary_.get());
    }
    EndFrame(start, out);
  }
  void WriteException(MessageHeader header, TApplicationException::TApplicationExceptionType type,
                      std::string_view message, std::string* out);

 private:
  using BinaryProtocol = BudgetedProtocol<apache::thrift::protocol::TBinaryProtocolT<FrameTransport>>;
  using CompactProtocol = BudgetedProtocol<apache::thrift::protocol::TCompactProtocolT<FrameTransport>>;
  static constexpr int32_t kSmallFrameBytes = 64 << 10;

  size_t BeginFrame(const MessageHeader& header, std::string* out);
  static void EndFrame(size_t start, std::string* out);
  Status ReadFailed(const std::exception& e);
  void MakeProtocols();

  ListBudget lists_;
  std::shared_ptr<FrameTransport> transport_;
  std::unique_ptr<BinaryProtocol> binary_;
  std::unique_ptr<CompactProtocol> compact_;
};

}  // namespace pando
