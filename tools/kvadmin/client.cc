#include "tools/kvadmin/client.h"

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSocket.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "gen-cpp/pando_constants.h"
#include "src/base/codec.h"
#include "src/rpc/thrift_codec.h"
#include "tools/common/interrupts.h"
#include "tools/kvadmin/bytes.h"

namespace pando::admin {

namespace {

using apache::thrift::transport::TFramedTransport;
using apache::thrift::transport::TSocket;
using apache::thrift::transport::TTransportException;

constexpr int64_t kFirstPauseMs = 20;
constexpr int64_t kMaxPauseMs = 500;
constexpr std::string_view kOutcomeUnknown = "; whether the write took effect is unknown";

// A socket whose blocking read ends when a signal arrives. It keeps the first bytes of the peer,
// for the error when they are not Thrift.
class Socket final : public TSocket {
 public:
  using TSocket::TSocket;
  uint32_t read(uint8_t* bytes, uint32_t length) override {
    // Set on each read, because a Shield may have begun or ended since the last one.
    interruptListener_ = tools::Interrupts::Shielded() ? nullptr : wake_;
    const uint32_t got = TSocket::read(bytes, length);
    if (begin_.size() < 4) begin_.append(reinterpret_cast<const char*>(bytes), std::min(got, 4u));
    return got;
  }
  const std::string& begin() const { return begin_; }

 private:
  std::string begin_;
  const std::shared_ptr<int> wake_ = std::make_shared<int>(tools::Interrupts::Descriptor());
};

class Frames final : public TFramedTransport {
 public:
  using TFramedTransport::TFramedTransport;
  // Receives the next frame, without its length, into memory of the caller.
  void Receive(ByteBuffer* frame) {
    uint8_t head[kFrameHeaderBytes];
    transport_->readAll(head, sizeof head);
    const uint32_t bytes = __builtin_bswap32(LoadLE<uint32_t>(reinterpret_cast<const char*>(head)));
    if (bytes > getMaxFrameSize()) {
      throw TTransportException(TTransportException::CORRUPTED_DATA, "Received an oversized frame");
    }
    frame->Clear();
    transport_->readAll(reinterpret_cast<uint8_t*>(frame->Extend(bytes)), bytes);
  }
};

Status NoSuchMethod(const std::string& at, std::string_view why) {
  if (!why.starts_with("a router ")) {
    return Error(Code::kUnsupported, "the server at {} does not support this call: {}", at, why);
  }
  return Error(
      Code::kUnsupported,
      "{} is a router, and this command asks nodes: name some nodes of the cluster in --server. The status page "
      "of the router (its --http_port) lists them",
      at);
}

// The partition that a refusal is about; "" if it is about none.
std::string_view PartitionIn(std::string_view message) {
  const size_t begin = message.find("partition ");
  if (begin == std::string_view::npos) return {};
  return message.substr(begin, message.find(':', begin) - begin);
}

}  // namespace

struct Client::Wire {
  Wire(const std::string& host, int port)
      : socket(std::make_shared<Socket>(host, port)),
        transport(std::make_shared<Frames>(socket)),
        protocol(std::make_shared<apache::thrift::protocol::TBinaryProtocol>(
            transport, /*string_limit=*/0, kMaxContainerEntries, /*strict_r=*/false, /*strict_w=*/true)),
        kv(protocol),
        admin(protocol),
        cluster(protocol) {}
  void SetTimeout(int64_t ms) {
    int timeout = static_cast<int>(std::clamp<int64_t>(ms, 1, 1 << 30));
    socket->setConnTimeout(timeout);
    socket->setRecvTimeout(timeout);
    socket->setSendTimeout(timeout);
  }
  std::shared_ptr<Socket> socket;
  std::shared_ptr<Frames> transport;
  std::shared_ptr<apache::thrift::protocol::TBinaryProtocol> protocol;
  api::KvClient kv;
  api::AdminClient admin;
  api::ClusterClient cluster;
  bool scans_ahead = false;  // the request of the next call was sent
  bool answered = false;     // at least one answer came, so the peer speaks Thrift
};

std::string ErrorName(int32_t code) {
  const auto& c = api::g_pando_constants;
  const std::pair<int32_t, const char*> names[] = {
      {c.BAD_REQUEST, "BAD_REQUEST"},
      {c.TOO_LARGE, "TOO_LARGE"},
      {c.UNAUTHENTICATED, "UNAUTHENTICATED"},
      {c.DENIED, "DENIED"},
      {c.NOT_MASTER, "NOT_MASTER"},
      {c.STALE_MAP, "STALE_MAP"},
      {c.MOVING, "MOVING"},
      {c.OVERLOADED, "OVERLOADED"},
      {c.DEADLINE, "DEADLINE"},
      {c.UNAVAILABLE, "UNAVAILABLE"},
      {c.TOO_STALE, "TOO_STALE"},
      {c.SNAPSHOT_GONE, "SNAPSHOT_GONE"},
      {c.BAD_CURSOR, "BAD_CURSOR"},
      {c.TOKEN_MISMATCH, "TOKEN_MISMATCH"},
      {c.DISK_FULL, "DISK_FULL"},
      {c.CORRUPT, "CORRUPT"},
      {c.INTERNAL, "INTERNAL"},
      {c.QUOTA_EXCEEDED, "QUOTA_EXCEEDED"},
      {c.CANCELLED, "CANCELLED"},
      {c.FEED_GONE, "FEED_GONE"},
  };
  for (const auto& [number, name] : names) {
    if (number == code) return name;
  }
  return fmt::format("code {}", code);  // of a newer server
}

std::string_view ErrorName(Code code) {
  switch (code) {
    case Code::kInvalidArgument: return "BAD_REQUEST";
    case Code::kCorruption: return "CORRUPT";
    default: return CodeName(code);
  }
}

Status FromKvError(const api::KvError& error) {
  const auto& c = api::g_pando_constants;
  Code code = Code::kUnavailable;
  if (error.code == c.BAD_REQUEST || error.code == c.TOO_LARGE || error.code == c.BAD_CURSOR) {
    code = Code::kInvalidArgument;
  } else if (error.code == c.SNAPSHOT_GONE || error.code == c.FEED_GONE) {
    code = Code::kSnapshotGone;
  } else if (error.code == c.CORRUPT) {
    code = Code::kCorruption;
  } else if (error.code == c.DISK_FULL) {
    code = Code::kDiskFull;
  } else if (error.code == c.OVERLOADED) {
    code = Code::kOverloaded;
  } else if (error.code == c.DEADLINE) {
    code = Code::kDeadline;
  }
  if (error.code == c.NOT_MASTER) {
    return Error(Code::kNotMaster, "the server refused (NOT_MASTER): {}", error.message)
        .WithMaster(error.master, static_cast<uint64_t>(error.epoch));
  }
  return Error(code, "the server refused ({}): {}{}", ErrorName(error.code), error.message,
               error.applied == c.APPLIED_UNKNOWN ? kOutcomeUnknown : "");
}

Client::Client(Target target) : target_(std::move(target)) { tools::Interrupts::Install(); }
Client::~Client() = default;

Status Client::Resolve() {
  if (port_ != 0) return Status();
  std::string_view rest = target_.address;
  while (true) {
    const size_t comma = rest.find(',');
    Result<HostPort> address = ParseHostPort(rest.substr(0, comma));
    if (!address.ok()) return Error(Code::kInvalidArgument, "--server: {}", address.status().message());
    seeds_.push_back(*std::move(address));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  Redirect("");
  return Status();
}

void Client::GoTo(HostPort address) {
  at_ = FormatHostPort(address.host, address.port);
  host_ = std::move(address.host);
  port_ = address.port;
  wire_.reset();
}

void Client::Redirect(const std::string& master) {
  Result<HostPort> address = ParseHostPort(master);
  redirected_ = address.ok();
  if (redirected_) return GoTo(*std::move(address));
  GoTo(seeds_[next_seed_ % seeds_.size()]);
  ++next_seed_;
}

void Client::Open(int64_t budget_ms) {
  auto wire = std::make_unique<Wire>(host_, port_);
  wire->SetTimeout(budget_ms);
  wire->transport->open();
  wire_ = std::move(wire);
}

Status Client::FromTransport(const TTransportException& error, bool never_sent, int64_t budget_ms) const {
  const bool timed_out = error.getType() == TTransportException::TIMED_OUT;
  const Code code = timed_out ? Code::kDeadline : Code::kUnavailable;
  if (never_sent) {
    return Error(code, "cannot reach {}: {}; check the address and that kvnode or kvrouter runs there", at_,
                 error.what());
  }
  if (timed_out) return Error(code, "{} did not answer within {} ms", at_, budget_ms);
  return Error(code, "lost the connection to {}: {}", at_, error.what());
}

Status Client::NotThrift(const std::string& begin) const {
  return Error(Code::kUnsupported, "{} does not speak Thrift (its answer begins with \"{}\"); {}", at_,
               Printable(begin, Encoding::kText),
               begin == "HTTP" ? "this is an HTTP port, perhaps the node's --http_port; give the port of --listen"
                               : "check the address and that kvnode runs there");
}

// Of a call that may take so long.
api::Context Client::ContextFor(int64_t budget_ms) {
  wire_->SetTimeout(budget_ms);
  api::Context context;
  context.__set_budget_ms(static_cast<int32_t>(std::clamp<int64_t>(budget_ms, 1, INT32_MAX)));
  return context;
}

Client::Failure Client::Attempt(const std::function<void(Wire&, const api::Context&)>& call, int64_t budget_ms) {
  Failure failure;
  try {
    if (!wire_) {
      failure.never_sent = true;
      Open(budget_ms);
      failure.never_sent = false;
    }
    call(*wire_, ContextFor(budget_ms));
    wire_->answered = true;
    return failure;
  } catch (const api::KvError& e) {
    wire_->answered = true;
    failure.status = FromKvError(e);
    failure.retryable = e.retryable && e.applied == api::g_pando_constants.APPLIED_NO;
    failure.pause_ms = e.retry_after_ms;
    failure.elsewhere = e.code == api::g_pando_constants.NOT_MASTER;
  } catch (const TTransportException& e) {
    failure.broken = true;
    failure.no_answer = !failure.never_sent;
    failure.status = FromTransport(e, failure.never_sent, budget_ms);
    const bool no_frame = e.getType() == TTransportException::CORRUPTED_DATA;
    if (wire_ && !wire_->answered && no_frame) {
      failure.foreign = true;
      failure.no_answer = false;  // whatever runs there, it stored nothing in a Pando store
      failure.status = NotThrift(wire_->socket->begin());
    }
  } catch (const apache::thrift::TApplicationException& e) {
    failure.status = NoSuchMethod(at_, e.what());
  } catch (const std::bad_alloc&) {
    failure.broken = true;
    failure.no_answer = true;
    failure.status = Error(Code::kIoError, "out of memory for the answer of {}; ask for less at a time", at_);
  } catch (const std::exception& e) {
    failure.broken = true;
    failure.no_answer = true;
    failure.status = Error(Code::kCorruption, "the answer of {} cannot be decoded: {}", at_, e.what());
  }
  if (failure.broken) wire_.reset();
  if (Status interrupted = tools::Interrupts::Check(); !interrupted.ok()) failure.status = std::move(interrupted);
  return failure;
}

Status Client::Retry(Repeat repeat, const std::function<void(Wire&, const api::Context&)>& call) {
  RETURN_IF_ERROR(Resolve());
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(target_.timeout_ms);
  bool unknown = false;  // an attempt to write was sent, and its answer did not come
  size_t tried = 0;      // addresses, since one was reached
  bool sent_on = false;  // the last attempt was sent to the master at once
  Status first_sent;     // what the first node said that has sent this call to another one
  auto with_outcome = [&unknown](Status why) {
    if (!unknown || why.message().ends_with(kOutcomeUnknown)) return why;
    return Error(why.code(), "{}{}", why.message(), kOutcomeUnknown);
  };
  for (int64_t pause_ms = kFirstPauseMs;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
    if (Status interrupted = tools::Interrupts::Check(); !interrupted.ok()) return with_outcome(interrupted);
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    Failure failure = Attempt(call, std::max<int64_t>(left, 1));
    if (failure.status.ok()) return Status();
    unknown = unknown || (failure.no_answer && repeat != Repeat::kSafe);
    // A failed connection attempt is not retried, unless there is another address: at a prompt, waiting for a
    // server that does not run does not help.
    const bool others = redirected_ || ++tried < seeds_.size();
    bool again = failure.retryable || (failure.never_sent && others) ||
                 (failure.broken && !failure.never_sent && !failure.foreign && repeat != Repeat::kUnsafe);
    if (!failure.never_sent) tried = 0;
    const std::string master = failure.status.master();
    if (failure.elsewhere) {
      if (first_sent.ok()) first_sent = failure.status;
      // A call that needs several partitions is sent from one node to the other for ever. What the first one lacks is
      // what its caller can do something about.
      if (PartitionIn(first_sent.message()) != PartitionIn(failure.status.message())) failure.status = first_sent;
    }
    if (failure.elsewhere || failure.broken) {
      Redirect(master);
      // What NOT_MASTER says may be old, so only every other attempt follows it without a pause.
      sent_on = !sent_on && !master.empty();
      if (again && sent_on) continue;
    }
    int64_t wait_ms = std::max(pause_ms, failure.pause_ms);
    left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (failure.never_sent && !others && seeds_.size() > 1) {
      failure.status = Error(failure.status.code(), "none of the servers {} can be reached; of the last one: {}",
                             target_.address, failure.status.message());
    }
    if (!again || left <= wait_ms) return with_outcome(failure.status);
    if (!tools::Interrupts::Sleep(wait_ms)) return with_outcome(tools::Interrupts::Check());
  }
}

Status Client::Scan(const api::ScanRequest& request, ReceivedPage* page) {
  page->rows.clear();
  const uint32_t most_rows =
      request.limit_rows > 0 ? static_cast<uint32_t>(request.limit_rows) : std::numeric_limits<uint32_t>::max();
  return Retry(Repeat::kSafe, [&](Wire& wire, const api::Context& context) {
    if (!std::exchange(wire.scans_ahead, false)) wire.kv.send_scan(context, request);
    wire.transport->Receive(&page->frame);
    ReadScanReply(most_rows, page);
  });
}

void Client::ScanAhead(const api::ScanRequest& request) {
  if (!wire_) return;
  CHECK(!wire_->scans_ahead);
  try {
    wire_->kv.send_scan(ContextFor(target_.timeout_ms), request);
    wire_->scans_ahead = true;
  } catch (const std::exception&) {
    wire_.reset();
  }
}

Status Client::Kv(Repeat repeat, const KvCall& call) {
  return Retry(repeat, [&](Wire& wire, const api::Context& context) { call(wire.kv, context); });
}

Status Client::Admin(Repeat repeat, const AdminCall& call) {
  return Retry(repeat, [&](Wire& wire, const api::Context& context) { call(wire.admin, context); });
}

Status Client::Cluster(Repeat repeat, const ClusterCall& call) {
  return Retry(repeat, [&](Wire& wire, const api::Context& context) { call(wire.cluster, context); });
}

Status Client::Once(const PipelineCall& call) {
  RETURN_IF_ERROR(Resolve());
  auto wrapped = [&](Wire& wire, const api::Context& context) { call(wire.kv, context); };
  // Half of the budget, so that an attempt without an answer leaves time for another one.
  return Attempt(wrapped, std::max<int64_t>(target_.timeout_ms / 2, 1)).status;
}

}  // namespace pando::admin
