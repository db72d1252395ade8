// ThriftCodec converts between framed Thrift messages and the generated structs, in the three
// encodings that clients use.
//
// The first byte of a frame identifies the protocol: 0x80 is the strict binary protocol, 0x82 the
// compact protocol, and 0x00 the old binary protocol without a version (its first byte is the top
// byte of the name's length). Any other first byte is not Thrift.
//
// The size of the frame limits what decoding may allocate. A string that claims to be longer than
// the frame, or a list that claims more entries than any request may have, is refused before
// anything is allocated. Decoded list entries take many times their bytes on the wire: an operation
// of a batch may be a single byte, but its struct takes hundreds. The memory for a list is
// therefore reserved before it is allocated.
//
// Threads: one reactor. The codec keeps its protocol objects, so that a message allocates none.
#pragma once

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/protocol/TCompactProtocol.h>

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "src/base/codec.h"
#include "src/base/limits.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/io/append_sparely.h"
#include "src/rpc/frame_transport.h"

namespace pando {

enum class WireProtocol : uint8_t { kBinary, kOldBinary, kCompact };
using apache::thrift::TApplicationException;
using ThriftMessageType = apache::thrift::protocol::TMessageType;

// The most entries that a list of the API may have. Only replies have lists of more than
// kMaxRequestEntries, such as the rows of a scan.
inline constexpr int32_t kMaxContainerEntries = 16384;
// The most entries that the lists of one request may have together. This is well above kMaxBatchOps
// and kMaxMultiGetKeys, so that a request that exceeds those a little gets an error that names the
// exact limit. Others are refused before their entries are decoded, because that takes long.
inline constexpr uint32_t kMaxRequestEntries = 2048;
// The most fields, numbers in lists among them, that one request may have. A batch of kMaxRequestEntries has a quarter.
inline constexpr uint32_t kMaxRequestFields = 131'072;
// The memory that one list entry takes until its request is answered: the decoded struct, what the
// handler creates from it, its result, and its part of the reply. (Strings are counted separately.)
inline constexpr size_t kListEntryBytes = 1024;
inline constexpr size_t kFrameHeaderBytes = 4;  // the big-endian length before each frame
inline constexpr size_t kMaxMethodNameBytes = 64;
inline constexpr size_t kMaxMessageHeadBytes = kMaxMethodNameBytes + 16;  // in any protocol

struct MessageHeader {
  WireProtocol protocol = WireProtocol::kBinary;
  ThriftMessageType type = apache::thrift::protocol::T_CALL;
  int32_t seqid = 0;
  std::string_view method;  // points into the frame
};

// Removes the header from `frame` (the payload of a frame), which leaves the arguments. Returns
// kInvalidArgument if the frame is not Thrift.
Status DecodeMessageHeader(std::string_view* frame, MessageHeader* header);

// The memory that an entry of a list of structs in a reply takes, if nothing smaller is known: the decoded struct, and
// what allocating its strings costs besides their bytes.
inline constexpr size_t kReplyEntryBytes = 640;

// Limits the lists of the frame that is being decoded, and reserves memory for them. Without `memory`,
// kMaxContainerEntries is the only limit; so it is for a reply (entry_bytes).
struct ListBudget {
  MemoryGrant* memory = nullptr;
  uint32_t entries = 0;  // of this request
  bool refused = false;
  uint64_t entries_total = 0;
  size_t entry_bytes = 0;    // of a reply: what each entry takes; 0: it is a request
  bool must_arrive = false;  // it is decoded also if memory is short
  uint32_t fields = 0;       // of this request, and numbers in lists
  // Throws if the request has too many entries, or if the memory cannot be reserved. `numbers`: they are i32, such as
  // the partitions that a router names, which take little and are limited only by kMaxContainerEntries.
  void Charge(uint32_t more, bool numbers);
  // Throws if the request has too many. Unknown ones take time, too, and nobody but the sender limits their number.
  void ChargeFields(uint32_t more) {
    fields += more;
    if (fields > kMaxRequestFields && memory != nullptr && entry_bytes == 0) [[unlikely]]
      TooManyFields();
  }
  [[noreturn]] static void TooManyFields();
};

// A Thrift protocol that reserves memory before it lets a list be allocated, limits what a request may have, also in
// fields that this version does not know, and writes bytes that are in no string.
template <typename Protocol>
class BudgetedProtocol final : public Protocol {
 public:
  using TType = apache::thrift::protocol::TType;
  template <typename... Args>
  explicit BudgetedProtocol(ListBudget* budget, Args&&... args)
      : Protocol(std::forward<Args>(args)...), budget_(budget) {}
  // These hide the functions of the base class. This works because the generated code, and Thrift's skip, are
  // instantiated with this class.
  uint32_t readFieldBegin(std::string& name, TType& type, int16_t& id) {
    budget_->ChargeFields(1);
    return Protocol::readFieldBegin(name, type, id);
  }
  uint32_t readListBegin(TType& type, uint32_t& entries) {
    const uint32_t bytes = Protocol::readListBegin(type, entries);
    budget_->Charge(entries, type == apache::thrift::protocol::T_I32);
    return bytes;
  }
  uint32_t readSetBegin(TType& type, uint32_t& entries) {
    const uint32_t bytes = Protocol::readSetBegin(type, entries);
    budget_->Charge(entries, false);
    return bytes;
  }
  uint32_t readMapBegin(TType& key_type, TType& value_type, uint32_t& entries) {
    const uint32_t bytes = Protocol::readMapBegin(key_type, value_type, entries);
    budget_->Charge(entries, false);
    return bytes;
  }
  // The base class would skip with its own functions.
  uint32_t skip(TType type) { return apache::thrift::protocol::skip(*this, type); }

  // As writeBinary.
  void writeView(std::string_view bytes) {
    const auto size = static_cast<uint32_t>(bytes.size());
    if constexpr (std::is_base_of_v<apache::thrift::protocol::TCompactProtocolT<FrameTransport>, Protocol>) {
      this->writeVarint32(size);
    } else {
      this->writeI32(static_cast<int32_t>(size));
    }
    output()->append(bytes);
  }
  // What was written.
  std::string* output() { return this->trans_->output(); }

 private:
  ListBudget* const budget_;
};

class ThriftCodec {
 public:
  ThriftCodec();

  // Decodes a generated struct `T` from `body`. Fields that are absent keep the values that
  // `*value` had. Returns kInvalidArgument, with the reason, for malformed bytes, and kOverloaded
  // when `memory` is given but cannot grow by what the lists need.
  template <typename T>
  Status Read(WireProtocol protocol, std::string_view body, T* value, MemoryGrant* memory = nullptr) {
    lists_ = {memory, 0, false, lists_.entries_total};
    return Decode(protocol, body, value);
  }
  // The same for a reply to this process: strings and lists are counted, each entry of a list of structs with so many
  // bytes. `must_arrive`: it is decoded also if memory is short.
  template <typename T>
  Status ReadReply(WireProtocol protocol, std::string_view body, T* value, MemoryGrant* memory, size_t entry_bytes,
                   bool must_arrive) {
    lists_ = {memory, 0, false, lists_.entries_total, entry_bytes, must_arrive};
    if (!memory->TryGrow(body.size()) && !must_arrive) return Error(Code::kOverloaded, "no memory for a reply");
    return Decode(protocol, body, value);
  }

  // Appends one whole frame to `out`. `Body` is a generated args or result struct.
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
  // The same for a body that is encoded already: `head` followed by `rest`.
  void WriteEncoded(const MessageHeader& header, std::string_view head, std::string_view rest, std::string* out) {
    size_t start = BeginFrame(header, out);
    out->append(head).append(rest);
    EndFrame(start, out);
  }
  // Appends an encoded struct, without a message around it.
  template <typename T>
  void WriteStruct(const T& value, std::string* out) {
    transport_->SetOutput(out);
    value.write(binary_.get());
  }
  // The number of list entries in all requests that were decoded so far.
  uint64_t request_entries() const { return lists_.entries_total; }
  void WriteException(MessageHeader header, TApplicationException::TApplicationExceptionType type,
                      std::string_view message, std::string* out);

 private:
  using BinaryProtocol = BudgetedProtocol<apache::thrift::protocol::TBinaryProtocolT<FrameTransport>>;
  using CompactProtocol = BudgetedProtocol<apache::thrift::protocol::TCompactProtocolT<FrameTransport>>;
  static constexpr int32_t kSmallFrameBytes = 64 << 10;

  template <typename T>
  Status Decode(WireProtocol protocol, std::string_view body, T* value) {
    transport_->SetInput(body);
    // No string can be longer than the frame that holds it.
    auto limit = static_cast<int32_t>(body.size());
    try {
      if (protocol != WireProtocol::kCompact) {
        binary_->setStringSizeLimit(limit);
        value->read(binary_.get());
      } else if (limit <= kSmallFrameBytes) {
        value->read(compact_.get());
      } else {
        // The compact protocol gets its limit at construction, and keeps the largest string buffer
        // that it ever allocated. A large frame therefore gets a protocol object of its own.
        CompactProtocol large(&lists_, transport_, limit, kMaxContainerEntries);
        value->read(&large);
      }
      return {};
    } catch (const std::exception& e) {
      return ReadFailed(e);
    }
  }

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
