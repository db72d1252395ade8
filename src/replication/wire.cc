#include "src/replication/wire.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando::replication {
namespace {

constexpr uint64_t kHelloMagic = 0x524545504f444e50;  // "PNDOPEER"
constexpr uint32_t kHelloIsGuard = 1u << 0;

struct HelloBody {
  uint64_t magic;
  uint32_t protocol_min, protocol_max;
  uint32_t protocol;
  uint32_t flags;
  Uuid cluster_id;
  uint32_t from, to;
  uint32_t from_reactor, to_reactor;
  uint64_t incarnation;
};
static_assert(sizeof(HelloBody) == 64);
static_assert(offsetof(HelloBody, protocol) == 16 && offsetof(HelloBody, cluster_id) == 24);
static_assert(offsetof(HelloBody, from) == 40 && offsetof(HelloBody, incarnation) == 56);

struct HelloReplyBody {
  HelloVerdict verdict;
  uint32_t protocol_min, protocol_max;
  uint32_t reason_bytes;  // of text, which follows
  uint64_t incarnation;
};
static_assert(sizeof(HelloReplyBody) == 24);
static_assert(offsetof(HelloReplyBody, reason_bytes) == 12 && offsetof(HelloReplyBody, incarnation) == 16);
static_assert(sizeof(HelloReplyBody) + kMaxRefusalBytes <= kMaxSmallFrameBytes);

struct DeathNoticeBody {
  uint32_t node;
  uint32_t reserved;
  uint64_t incarnation;
};
static_assert(sizeof(DeathNoticeBody) == 16 && offsetof(DeathNoticeBody, incarnation) == 8);

// -- messages

enum class WireKind : uint8_t {
  kHeartbeat = 1,
  kHeartbeatAck = 2,
  kAlignRequest = 3,
  kAlignReply = 4,
  kAppend = 5,
  kAppendAck = 6,
  kFenced = 7,
  kPromiseRequest = 8,
  kPromiseReply = 9,
  kCampaignNow = 10,
  kResign = 11,
  kCondemn = 12,
  kInstallOffer = 13,
};

struct MessageHead {
  uint32_t bytes;  // of the message, with this head
  WireKind kind;
  uint8_t reserved8;
  uint16_t reserved16;
  uint32_t partition;
  uint32_t reserved32;
  Uuid from, to;
};
static_assert(sizeof(MessageHead) == 48);
static_assert(offsetof(MessageHead, kind) == 4 && offsetof(MessageHead, partition) == 8);
static_assert(offsetof(MessageHead, from) == 16 && offsetof(MessageHead, to) == 32);

struct WirePoint {
  uint64_t epoch, lsn, chain;
};
static_assert(sizeof(WirePoint) == 24 && offsetof(WirePoint, chain) == 16);

struct WireHeartbeat {
  uint64_t epoch, incarnation;
  int64_t sent_ns;
  uint64_t commit_lsn;
  int64_t echo_ns;
  uint64_t echo_process;
};
static_assert(sizeof(WireHeartbeat) == 48 && offsetof(WireHeartbeat, sent_ns) == 16);
static_assert(offsetof(WireHeartbeat, echo_process) == 40);

constexpr uint32_t kHearsTopology = 1u << 0;
struct WireHeartbeatAck {
  uint64_t epoch, incarnation;
  int64_t sent_ns;
  uint64_t process;
  int64_t own_ns;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(WireHeartbeatAck) == 48 && offsetof(WireHeartbeatAck, sent_ns) == 16);
static_assert(offsetof(WireHeartbeatAck, own_ns) == 32 && offsetof(WireHeartbeatAck, flags) == 40);

struct WireResign {
  uint64_t epoch, incarnation, revision;
};
static_assert(sizeof(WireResign) == 24 && offsetof(WireResign, revision) == 16);

struct WireAlignRequest {
  uint64_t epoch, number;
};
static_assert(sizeof(WireAlignRequest) == 16);

struct WireCondemn {
  uint64_t epoch, lsn;
};
static_assert(sizeof(WireCondemn) == 16);

struct WireInstallOffer {
  uint64_t epoch, acked_lsn;
};
static_assert(sizeof(WireInstallOffer) == 16);

struct WireEpoch {  // CampaignNow
  uint64_t epoch;
};
static_assert(sizeof(WireEpoch) == 8);

constexpr uint32_t kAlignMore = 1u << 0;
constexpr uint32_t kAlignRefused = 1u << 1;  // `refused` means something
struct WireAlignReply {
  uint64_t epoch, number, incarnation;
  WirePoint log_end, committed;
  uint64_t refused;
  uint32_t flags;
  uint32_t ends;  // WirePoints, which follow
};
static_assert(sizeof(WireAlignReply) == 88 && offsetof(WireAlignReply, refused) == 72);
static_assert(offsetof(WireAlignReply, flags) == 80 && offsetof(WireAlignReply, ends) == 84);

struct WireAppend {  // the units follow
  uint64_t epoch;
  WirePoint after;
  uint64_t commit_lsn;
};
static_assert(sizeof(WireAppend) == 40 && offsetof(WireAppend, commit_lsn) == 32);

constexpr uint32_t kAckInstalled = 1u << 0;
constexpr uint32_t kAckApplyStalled = 1u << 1;
struct WireAppendAck {
  uint64_t epoch, incarnation;
  WirePoint durable;
  uint64_t applied_lsn;
  uint64_t room;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(WireAppendAck) == 64 && offsetof(WireAppendAck, applied_lsn) == 40);
static_assert(offsetof(WireAppendAck, flags) == 56);

struct WireFenced {
  uint64_t epoch, promised;
};
static_assert(sizeof(WireFenced) == 16);

struct WirePromiseRequest {
  uint64_t epoch, revision;
};
static_assert(sizeof(WirePromiseRequest) == 16);

constexpr uint32_t kPromised = 1u << 0;
constexpr uint32_t kStandsBack = 1u << 1;
struct WirePromiseReply {
  uint64_t epoch, highest, revision;
  WirePoint end;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(WirePromiseReply) == 56 && offsetof(WirePromiseReply, end) == 24);
static_assert(offsetof(WirePromiseReply, flags) == 48);

template <typename T>
void Put(const T& value, std::string* out) {
  static_assert(std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>, "no padding");
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Takes a T from the front of `bytes`. Returns false if there is none.
template <typename T>
bool TakeFront(std::string_view* bytes, T* value) {
  if (bytes->size() < sizeof(T)) return false;
  *value = LoadLE<T>(bytes->data());
  bytes->remove_prefix(sizeof(T));
  return true;
}

WirePoint ToWire(const HistoryPoint& p) { return {p.epoch, p.lsn, p.chain}; }
HistoryPoint FromWire(const WirePoint& p) { return {p.epoch, p.lsn, p.chain}; }

// -- one function each way for each kind

struct KindOf {
  WireKind operator()(const Heartbeat&) const { return WireKind::kHeartbeat; }
  WireKind operator()(const HeartbeatAck&) const { return WireKind::kHeartbeatAck; }
  WireKind operator()(const AlignRequest&) const { return WireKind::kAlignRequest; }
  WireKind operator()(const AlignReply&) const { return WireKind::kAlignReply; }
  WireKind operator()(const Append&) const { return WireKind::kAppend; }
  WireKind operator()(const AppendAck&) const { return WireKind::kAppendAck; }
  WireKind operator()(const Fenced&) const { return WireKind::kFenced; }
  WireKind operator()(const PromiseRequest&) const { return WireKind::kPromiseRequest; }
  WireKind operator()(const PromiseReply&) const { return WireKind::kPromiseReply; }
  WireKind operator()(const CampaignNow&) const { return WireKind::kCampaignNow; }
  WireKind operator()(const Resign&) const { return WireKind::kResign; }
  WireKind operator()(const Condemn&) const { return WireKind::kCondemn; }
  WireKind operator()(const InstallOffer&) const { return WireKind::kInstallOffer; }
  WireKind operator()(const DeathNotice&) const {
    LOG(FATAL) << "a death notice is no message between replicas";
    __builtin_unreachable();
  }
};

struct BodyBytes {
  size_t operator()(const Heartbeat&) const { return sizeof(WireHeartbeat); }
  size_t operator()(const HeartbeatAck&) const { return sizeof(WireHeartbeatAck); }
  size_t operator()(const AlignRequest&) const { return sizeof(WireAlignRequest); }
  size_t operator()(const AlignReply& m) const { return sizeof(WireAlignReply) + m.ends.size() * sizeof(WirePoint); }
  size_t operator()(const Append& m) const { return sizeof(WireAppend) + m.units.size(); }
  size_t operator()(const AppendAck&) const { return sizeof(WireAppendAck); }
  size_t operator()(const Fenced&) const { return sizeof(WireFenced); }
  size_t operator()(const PromiseRequest&) const { return sizeof(WirePromiseRequest); }
  size_t operator()(const PromiseReply&) const { return sizeof(WirePromiseReply); }
  size_t operator()(const CampaignNow&) const { return sizeof(WireEpoch); }
  size_t operator()(const Resign&) const { return sizeof(WireResign); }
  size_t operator()(const Condemn&) const { return sizeof(WireCondemn); }
  size_t operator()(const InstallOffer&) const { return sizeof(WireInstallOffer); }
  size_t operator()(const DeathNotice&) const { return 0; }
};

// The structured bindings make sure that no field of a message is forgotten here.
struct PutBody {
  std::string* out;
  void operator()(const Heartbeat& m) const {
    const auto& [epoch, incarnation, sent_ns, commit_lsn, echo_ns, echo_process] = m;
    Put(WireHeartbeat{epoch, incarnation, sent_ns, commit_lsn, echo_ns, echo_process}, out);
  }
  void operator()(const HeartbeatAck& m) const {
    const auto& [epoch, incarnation, sent_ns, process, own_ns, hears_topology] = m;
    Put(WireHeartbeatAck{epoch, incarnation, sent_ns, process, own_ns, hears_topology ? kHearsTopology : 0, 0}, out);
  }
  void operator()(const Resign& m) const {
    const auto& [epoch, incarnation, revision] = m;
    Put(WireResign{epoch, incarnation, revision}, out);
  }
  void operator()(const Condemn& m) const {
    const auto& [epoch, lsn] = m;
    Put(WireCondemn{epoch, lsn}, out);
  }
  void operator()(const InstallOffer& m) const {
    const auto& [epoch, acked_lsn] = m;
    Put(WireInstallOffer{epoch, acked_lsn}, out);
  }
  void operator()(const AlignRequest& m) const {
    const auto& [epoch, number] = m;
    Put(WireAlignRequest{epoch, number}, out);
  }
  void operator()(const AlignReply& m) const {
    const auto& [epoch, number, incarnation, ends, more, log_end, committed, refused] = m;
    CHECK_LE(ends.size(), kMaxNamedEnds);
    const uint32_t flags = (more ? kAlignMore : 0) | (refused ? kAlignRefused : 0);
    Put(WireAlignReply{epoch, number, incarnation, ToWire(log_end), ToWire(committed), refused.value_or(0), flags,
                       static_cast<uint32_t>(ends.size())},
        out);
    for (const HistoryPoint& end : ends) Put(ToWire(end), out);
  }
  void operator()(const Append& m) const {
    const auto& [epoch, after, units, commit_lsn] = m;
    CHECK_LE(units.size(), kMaxUnitsBytes);
    Put(WireAppend{epoch, ToWire(after), commit_lsn}, out);
    out->append(units);
  }
  void operator()(const AppendAck& m) const {
    const auto& [epoch, incarnation, durable, applied_lsn, installed, room, apply_stalled] = m;
    const uint32_t flags = (installed ? kAckInstalled : 0) | (apply_stalled ? kAckApplyStalled : 0);
    Put(WireAppendAck{epoch, incarnation, ToWire(durable), applied_lsn, room, flags, 0}, out);
  }
  void operator()(const Fenced& m) const {
    const auto& [epoch, promised] = m;
    Put(WireFenced{epoch, promised}, out);
  }
  void operator()(const PromiseRequest& m) const {
    const auto& [epoch, revision] = m;
    Put(WirePromiseRequest{epoch, revision}, out);
  }
  void operator()(const PromiseReply& m) const {
    const auto& [epoch, promised, highest, revision, end, stands_back] = m;
    const uint32_t flags = (promised ? kPromised : 0) | (stands_back ? kStandsBack : 0);
    Put(WirePromiseReply{epoch, highest, revision, ToWire(end), flags, 0}, out);
  }
  void operator()(const CampaignNow& m) const {
    const auto& [epoch] = m;
    Put(WireEpoch{epoch}, out);
  }
  void operator()(const DeathNotice&) const {}
};

// Each returns false if the body is not whole, is too long, or makes no sense.
bool Take(std::string_view body, Heartbeat* m) {
  WireHeartbeat w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.incarnation, w.sent_ns, w.commit_lsn, w.echo_ns, w.echo_process};
  return m->epoch != 0;
}
bool Take(std::string_view body, HeartbeatAck* m) {
  WireHeartbeatAck w;
  if (!TakeFront(&body, &w) || !body.empty() || (w.flags & ~kHearsTopology) != 0 || w.reserved != 0) return false;
  *m = {w.epoch, w.incarnation, w.sent_ns, w.process, w.own_ns, (w.flags & kHearsTopology) != 0};
  return m->epoch != 0;
}
bool Take(std::string_view body, Resign* m) {
  WireResign w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.incarnation, w.revision};
  return m->epoch != 0;
}
bool Take(std::string_view body, Condemn* m) {
  WireCondemn w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.lsn};
  return m->epoch != 0;
}
bool Take(std::string_view body, InstallOffer* m) {
  WireInstallOffer w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.acked_lsn};
  return m->epoch != 0;
}
bool Take(std::string_view body, AlignRequest* m) {
  WireAlignRequest w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.number};
  return m->epoch != 0;
}
bool Take(std::string_view body, AlignReply* m) {
  WireAlignReply w;
  if (!TakeFront(&body, &w) || (w.flags & ~(kAlignMore | kAlignRefused)) != 0) return false;
  if (w.ends > kMaxNamedEnds || body.size() != w.ends * sizeof(WirePoint)) return false;
  if ((w.flags & kAlignRefused) == 0 && w.refused != 0) return false;
  m->epoch = w.epoch;
  m->number = w.number;
  m->incarnation = w.incarnation;
  m->log_end = FromWire(w.log_end);
  m->committed = FromWire(w.committed);
  m->more = (w.flags & kAlignMore) != 0;
  m->refused.reset();
  if ((w.flags & kAlignRefused) != 0) m->refused = w.refused;
  m->ends.resize(w.ends);
  for (HistoryPoint& end : m->ends) {
    WirePoint point;
    if (!TakeFront(&body, &point)) return false;
    end = FromWire(point);
  }
  return m->epoch != 0;
}
bool Take(std::string_view body, Append* m) {
  WireAppend w;
  if (!TakeFront(&body, &w) || body.size() > kMaxUnitsBytes) return false;
  m->epoch = w.epoch;
  m->after = FromWire(w.after);
  m->commit_lsn = w.commit_lsn;
  m->units.assign(body);
  return m->epoch != 0;
}
bool Take(std::string_view body, AppendAck* m) {
  WireAppendAck w;
  if (!TakeFront(&body, &w) || !body.empty() || (w.flags & ~(kAckInstalled | kAckApplyStalled)) != 0 ||
      w.reserved != 0) {
    return false;
  }
  *m = {w.epoch,
        w.incarnation,
        FromWire(w.durable),
        w.applied_lsn,
        (w.flags & kAckInstalled) != 0,
        w.room,
        (w.flags & kAckApplyStalled) != 0};
  return m->epoch != 0;
}
bool Take(std::string_view body, Fenced* m) {
  WireFenced w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.promised};
  return m->epoch != 0;
}
bool Take(std::string_view body, PromiseRequest* m) {
  WirePromiseRequest w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  *m = {w.epoch, w.revision};
  return m->epoch != 0;
}
bool Take(std::string_view body, PromiseReply* m) {
  WirePromiseReply w;
  if (!TakeFront(&body, &w) || !body.empty() || (w.flags & ~(kPromised | kStandsBack)) != 0 || w.reserved != 0) {
    return false;
  }
  *m = {w.epoch, (w.flags & kPromised) != 0, w.highest, w.revision, FromWire(w.end), (w.flags & kStandsBack) != 0};
  return m->epoch != 0;
}
bool Take(std::string_view body, CampaignNow* m) {
  WireEpoch w;
  if (!TakeFront(&body, &w) || !body.empty()) return false;
  m->epoch = w.epoch;
  return m->epoch != 0;
}

template <typename Body>
bool TakeAs(std::string_view body, Message* message) {
  // A body of the same kind keeps its memory, which matters for units.
  if (!std::holds_alternative<Body>(message->body)) message->body.emplace<Body>();
  return Take(body, &std::get<Body>(message->body));
}

bool TakeBody(WireKind kind, std::string_view body, Message* message) {
  switch (kind) {
    case WireKind::kHeartbeat: return TakeAs<Heartbeat>(body, message);
    case WireKind::kHeartbeatAck: return TakeAs<HeartbeatAck>(body, message);
    case WireKind::kAlignRequest: return TakeAs<AlignRequest>(body, message);
    case WireKind::kAlignReply: return TakeAs<AlignReply>(body, message);
    case WireKind::kAppend: return TakeAs<Append>(body, message);
    case WireKind::kAppendAck: return TakeAs<AppendAck>(body, message);
    case WireKind::kFenced: return TakeAs<Fenced>(body, message);
    case WireKind::kPromiseRequest: return TakeAs<PromiseRequest>(body, message);
    case WireKind::kPromiseReply: return TakeAs<PromiseReply>(body, message);
    case WireKind::kCampaignNow: return TakeAs<CampaignNow>(body, message);
    case WireKind::kResign: return TakeAs<Resign>(body, message);
    case WireKind::kCondemn: return TakeAs<Condemn>(body, message);
    case WireKind::kInstallOffer: return TakeAs<InstallOffer>(body, message);
  }
  return false;
}

uint64_t BodyChecksum(const PeerFrameHeader& header, std::string_view body) {
  return Hash64(body, LoadLE<uint64_t>(&header));
}

}  // namespace

// -- frames

void BeginFrame(std::string* frame) {
  CHECK(frame->empty());
  Put(PeerFrameHeader{}, frame);
}

void SealFrame(PeerFrame kind, std::string* frame) {
  CHECK_GE(frame->size(), sizeof(PeerFrameHeader));
  PeerFrameHeader header{};
  header.body_bytes = static_cast<uint32_t>(frame->size() - sizeof header);
  header.kind = kind;
  CHECK_LE(header.body_bytes, kMaxPeerFrameBytes);
  header.checksum = BodyChecksum(header, std::string_view(*frame).substr(sizeof header));
  StoreLE(frame->data(), header);
}

std::string HelloFrame(const PeerHello& hello) {
  HelloBody body{};
  body.magic = kHelloMagic;
  body.protocol_min = hello.protocol_min;
  body.protocol_max = hello.protocol_max;
  body.protocol = hello.protocol;
  body.flags = hello.guard ? kHelloIsGuard : 0;
  body.cluster_id = hello.cluster_id;
  body.from = hello.from;
  body.to = hello.to;
  body.from_reactor = hello.from_reactor;
  body.to_reactor = hello.to_reactor;
  body.incarnation = hello.incarnation;
  std::string frame;
  BeginFrame(&frame);
  Put(body, &frame);
  SealFrame(PeerFrame::kHello, &frame);
  return frame;
}

std::string HelloReplyFrame(const HelloReply& reply) {
  const std::string_view reason = std::string_view(reply.reason).substr(0, kMaxRefusalBytes);
  HelloReplyBody body{};
  body.verdict = reply.verdict;
  body.protocol_min = reply.protocol_min;
  body.protocol_max = reply.protocol_max;
  body.reason_bytes = static_cast<uint32_t>(reason.size());
  body.incarnation = reply.incarnation;
  std::string frame;
  BeginFrame(&frame);
  Put(body, &frame);
  frame.append(reason);
  SealFrame(PeerFrame::kHelloReply, &frame);
  return frame;
}

std::string EmptyFrame(PeerFrame kind) {
  std::string frame;
  BeginFrame(&frame);
  SealFrame(kind, &frame);
  return frame;
}

std::string DeathNoticeFrame(NodeId node, uint64_t incarnation) {
  std::string frame;
  BeginFrame(&frame);
  Put(DeathNoticeBody{node, 0, incarnation}, &frame);
  SealFrame(PeerFrame::kDeathNotice, &frame);
  return frame;
}

Status CheckFrameHeader(const PeerFrameHeader& header) {
  const bool known = header.kind >= PeerFrame::kHello && header.kind <= PeerFrame::kPong;
  if (!known || header.reserved8 != 0 || header.reserved16 != 0) {
    return Error(Code::kCorruption, "the bytes are no frame of the peer protocol (length {}, kind {})",
                 header.body_bytes, static_cast<int>(header.kind));
  }
  const size_t limit = header.kind == PeerFrame::kMessages ? kMaxPeerFrameBytes : kMaxSmallFrameBytes;
  if (header.body_bytes > limit) {
    return Error(Code::kCorruption, "a frame of kind {} has {} bytes; the limit is {}", static_cast<int>(header.kind),
                 header.body_bytes, limit);
  }
  return {};
}

Status CheckFrameBody(const PeerFrameHeader& header, std::string_view body) {
  if (BodyChecksum(header, body) == header.checksum) return {};
  return Error(Code::kCorruption, "a frame of kind {} and {} bytes fails its checksum", static_cast<int>(header.kind),
               body.size());
}

Result<PeerHello> DecodeHello(std::string_view body) {
  HelloBody w;
  if (!TakeFront(&body, &w) || w.magic != kHelloMagic) {
    return Error(Code::kCorruption, "the hello is not one of this protocol");
  }
  PeerHello hello;
  hello.cluster_id = w.cluster_id;
  hello.from = w.from;
  hello.to = w.to;
  hello.from_reactor = w.from_reactor;
  hello.to_reactor = w.to_reactor;
  hello.incarnation = w.incarnation;
  hello.protocol_min = w.protocol_min;
  hello.protocol_max = w.protocol_max;
  hello.protocol = w.protocol;
  hello.guard = (w.flags & kHelloIsGuard) != 0;
  return hello;
}

Result<HelloReply> DecodeHelloReply(std::string_view body) {
  HelloReplyBody w;
  if (!TakeFront(&body, &w) || w.reason_bytes > kMaxRefusalBytes || w.reason_bytes > body.size()) {
    return Error(Code::kCorruption, "the answer to the hello makes no sense");
  }
  HelloReply reply;
  reply.verdict = w.verdict;
  reply.protocol_min = w.protocol_min;
  reply.protocol_max = w.protocol_max;
  reply.incarnation = w.incarnation;
  reply.reason = body.substr(0, w.reason_bytes);
  // It goes into the log.
  for (char& c : reply.reason) {
    if (c < ' ' || c > '~') c = '?';
  }
  return reply;
}

Result<NodeDeath> DecodeDeathNotice(std::string_view body) {
  DeathNoticeBody w;
  if (!TakeFront(&body, &w) || !body.empty() || w.reserved != 0 || w.node == 0) {
    return Error(Code::kCorruption, "the death notice makes no sense");
  }
  return NodeDeath{w.node, w.incarnation};
}

// -- messages

bool IsControl(const Message& message) { return !std::holds_alternative<Append>(message.body); }

size_t EncodedBytes(uint32_t /*protocol*/, const Message& message) {
  return sizeof(MessageHead) + std::visit(BodyBytes(), message.body);
}

void EncodeMessage(uint32_t protocol, uint32_t partition, const Message& message, std::string* out) {
  const size_t begin = out->size();
  MessageHead head{};
  head.bytes = static_cast<uint32_t>(EncodedBytes(protocol, message));
  head.kind = std::visit(KindOf(), message.body);
  head.partition = partition;
  head.from = message.from;
  head.to = message.to;
  Put(head, out);
  std::visit(PutBody{out}, message.body);
  CHECK_EQ(out->size() - begin, head.bytes);
}

Result<bool> MessagesReader::Next() {
  if (rest_.empty()) return false;
  std::string_view bytes = rest_;
  MessageHead head;
  if (!TakeFront(&bytes, &head) || head.bytes < sizeof head || head.bytes - sizeof head > bytes.size()) {
    return Error(Code::kCorruption, "a message of {} bytes is not whole", rest_.size());
  }
  const std::string_view body = bytes.substr(0, head.bytes - sizeof head);
  const bool from_replica_to_other = !head.from.IsNil() && !head.to.IsNil() && head.from != head.to;
  const bool reserved = head.reserved8 != 0 || head.reserved16 != 0 || head.reserved32 != 0;
  if (!from_replica_to_other || reserved || !TakeBody(head.kind, body, &message)) {
    return Error(Code::kCorruption,
                 "a message of kind {} and {} bytes for partition {}, from replica {} to {}, makes no sense in version "
                 "{} of the protocol",
                 static_cast<int>(head.kind), head.bytes, head.partition, head.from.ToString(), head.to.ToString(),
                 protocol_);
  }
  partition = head.partition;
  message.from = head.from;
  message.to = head.to;
  rest_.remove_prefix(head.bytes);
  return true;
}

}  // namespace pando::replication
