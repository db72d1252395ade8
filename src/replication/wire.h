// How nodes speak to each other: frames, and the encoding of messages (docs/FORMAT.md, "Peer
// protocol").
//
//   frame    := PeerFrameHeader, body
//   messages := (MessageHead, body)...        messages of any partitions, in one frame of kMessages
//
// Headers of frames, hellos and their replies have the same form in every version of the protocol, so
// that builds of any two versions can at least tell each other why they cannot talk. Messages are
// encoded in the version that the hello has named.
//
// Threads: plain data and pure functions.
//
// Invariants
//   PM1  A decoder reads nothing outside of its input, allocates no more than the input has bytes, and
//       answers bytes that it does not understand, or that make no sense, with kCorruption.
//   PM2  Of one frame, a node takes nothing before the checksum of the whole frame has been compared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/replication/messages.h"
#include "src/topology/cluster_map.h"

namespace pando::replication {

// The versions of the protocol that this build speaks.
inline constexpr uint32_t kProtocolMin = kSpokenProtocolMin, kProtocolMax = kSpokenProtocolMax;
// The first version whose nodes read the records of snapshots of the cluster (RecordOp::kClose, kLease). It changes
// nothing else. Until the cluster speaks it, no master appends such records.
inline constexpr uint32_t kProtocolWithMarks = 2;
// The same for the records of splits (RecordOp::kFeed, and copies).
inline constexpr uint32_t kProtocolWithFeeds = 3;

// The most that the units of one Append may have. The largest unit is about as long as the largest
// request (kMaxFrameBytes).
inline constexpr size_t kMaxUnitsBytes = 8u << 20;
// The most that the body of a frame may have.
inline constexpr size_t kMaxPeerFrameBytes = kMaxUnitsBytes + (64u << 10);
// The same for every frame but kMessages. A node keeps no more of who has not been accepted yet.
inline constexpr size_t kMaxSmallFrameBytes = 512;
inline constexpr size_t kMaxRefusalBytes = 400;  // of HelloReply::reason; the rest is cut off

enum class PeerFrame : uint8_t {
  kHello = 1,        // the first frame of who connects
  kHelloReply = 2,   // the answer
  kMessages = 3,     // of a node
  kDeathNotice = 4,  // of a guard
  kPing = 5,         // empty; of who connects
  kPong = 6,         // empty; the answer
};

struct PeerFrameHeader {
  uint32_t body_bytes;
  PeerFrame kind;
  uint8_t reserved8;
  uint16_t reserved16;
  uint64_t checksum;  // XXH3-64 of the body; the seed is the first 8 bytes of this header
};
static_assert(sizeof(PeerFrameHeader) == 16);
static_assert(offsetof(PeerFrameHeader, kind) == 4 && offsetof(PeerFrameHeader, checksum) == 8);

// Who speaks, and to whom it believes to speak. Sent by the one who connects.
struct PeerHello {
  Uuid cluster_id;
  NodeId from = 0, to = 0;
  uint32_t from_reactor = 0, to_reactor = 0;
  uint64_t incarnation = 0;                                           // of the sender's process
  uint32_t protocol_min = kProtocolMin, protocol_max = kProtocolMax;  // what the sender's build speaks
  uint32_t protocol = kProtocolMax;  // the cluster's active version: that of all messages on this connection
  // A guard process of `from`, and `incarnation` is that of the process that it watches. It may send
  // death notices of `from`, and nothing else.
  bool guard = false;
  bool operator==(const PeerHello&) const = default;
};

enum class HelloVerdict : uint32_t {
  kAccepted = 1,
  kOtherCluster = 2,
  kOtherNode = 3,       // `to` or `to_reactor` is somebody else
  kUnknownNode = 4,     // `from` is not in the topology
  kOldIncarnation = 5,  // a later process of `from` was seen
  kNoProtocol = 6,      // the active version is none that the answering build speaks
};

struct HelloReply {
  HelloVerdict verdict = HelloVerdict::kAccepted;
  uint32_t protocol_min = kProtocolMin, protocol_max = kProtocolMax;  // what the answering build speaks
  uint64_t incarnation = 0;                                           // of the answering process
  std::string reason;  // of a refusal: a sentence for the log of the one who connected
  bool operator==(const HelloReply&) const = default;
};

// -- frames

// A frame is built in place: BeginFrame on an empty string, the body appended, SealFrame.
void BeginFrame(std::string* frame);
void SealFrame(PeerFrame kind, std::string* frame);
// Whole frames.
std::string HelloFrame(const PeerHello& hello);
std::string HelloReplyFrame(const HelloReply& reply);
std::string EmptyFrame(PeerFrame kind);  // kPing, kPong
// What a guard sends after its hello. It need not wait for the answer to the hello.
std::string DeathNoticeFrame(NodeId node, uint64_t incarnation);

// kCorruption: no frame of this protocol begins so, or its body is longer than it may be.
Status CheckFrameHeader(const PeerFrameHeader& header);
// kCorruption: the checksum does not match.
Status CheckFrameBody(const PeerFrameHeader& header, std::string_view body);

// The bodies of frames. What a later version appends to a hello or to its reply is passed over.
Result<PeerHello> DecodeHello(std::string_view body);
Result<HelloReply> DecodeHelloReply(std::string_view body);
struct NodeDeath {
  NodeId node = 0;
  uint64_t incarnation = 0;
};
Result<NodeDeath> DecodeDeathNotice(std::string_view body);

// -- messages

// Everything but Append: it is small, others wait for it, and it leaves ahead of data.
bool IsControl(const Message& message);

// REQUIRES of the encoder: the body is no DeathNotice (a guard sends its own frame, and the shell makes
// one for each replica of it), and keeps the limits: kMaxNamedEnds, kMaxUnitsBytes.
size_t EncodedBytes(uint32_t protocol, const Message& message);
void EncodeMessage(uint32_t protocol, uint32_t partition, const Message& message, std::string* out);

// Reads the messages of the body of a frame one by one.
class MessagesReader {
 public:
  MessagesReader(uint32_t protocol, std::string_view body) : protocol_(protocol), rest_(body) {}
  // Reads the next message into the members below. False: there is none. kCorruption: the bytes are no
  // message, or one that makes no sense: a UUID or an epoch of 0, too many ends, too many bytes.
  Result<bool> Next();

  uint32_t partition = 0;  // its ID (cluster_map.h)
  Message message;

 private:
  const uint32_t protocol_;
  std::string_view rest_;
};

}  // namespace pando::replication
