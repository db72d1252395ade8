#include "tools/kvadmin/client.h"

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSocket.h>

#include <algorithm>

#include "gen-cpp/pando_constants.h"
#include "src/base/address.h"
#include "tools/common/interrupts.h"

namespace pando::admin {

namespace {

using apache::thrift::transport::TFramedTransport;
using apache::thrift::transport::TSocket;
using apache::thrift::transport::TTransportException;

constexpr int64_t kFirstPauseMs = 20;
constexpr int64_t kMaxPauseMs = 500;

// A socket whose blocking read ends when a signal arrives.
class Socket final : public TSocket {
 public:
  using TSocket::TSocket;
  uint32_t read(uint8_t* bytes, uint32_t length) override {
    // Set on each read, because a Shield may have begun or ended since the last one.
    interruptListener_ = tools::Interrupts::Shielded() ? nullptr : wake_;
    return TSocket::read(bytes, length);
  }

 private:
  const std::shared_ptr<int> wake_ = std::make_shared<int>(tools::Interrupts::Descriptor());
};

}  // namespace

struct Client::Wire {
  Wire(const std::string& host, int port)
      : socket(std::make_shared<Socket>(host, port)),
        transport(std::make_shared<TFramedTransport>(socket)),
        protocol(std::make_shared<apache::thrift::protocol::TBinaryProtocol>(transport)),
        kv(protocol),
        admin(protocol) {}
  void SetTimeout(int64_t ms) {
    int timeout = static_cast<int>(std::clamp<int64_t>(ms, 1, 1 << 30));
    socket->setConnTimeout(timeout);
    socket->setRecvTimeout(timeout);
    socket->setSendTimeout(timeout);
  }
  std::shared_ptr<Socket> socket;
  std::shared_ptr<TFramedTransport> transport;
  std::shared_ptr<apache::thrift::protocol::TBinaryProtocol> protocol;
  api::KvClient kv;
  api::AdminClient admin;
};

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
  std::string outcome;
  if (error.applied == c.APPLIED_UNKNOWN) outcome = "; whether the write took effect is unknown";
  return Error(code, "the server refused (code {}): {}{}", error.code, error.message, outcome);
}

Client::Client(Target target) : target_(std::move(target)) { tools::Interrupts::Install(); }
Client::~Client() = default;

Status Client::Resolve() {
  if (port_ != 0) return Status();
  Result<HostPort> address = ParseHostPort(target_.address);
  if (!address.ok()) return Error(Code::kInvalidArgument, "--server: {}", address.status().message());
  host_ = address->host;
  port_ = address->port;
  return Status();
}

void Client::Open(int64_t budget_ms) {
  auto wire = std::make_unique<Wire>(host_, port_);
  wire->SetTimeout(budget_ms);
  wire->transport->open();
  wire_ = std::move(wire);
}

Client::Failure Client::Attempt(const std::function<void(Wire&, const api::Context&)>& call, int64_t budget_ms) {
  Failure failure;
  try {
    if (!wire_) {
      failure.never_sent = true;
      Open(budget_ms);
      failure.never_sent = false;
    }
    wire_->SetTimeout(budget_ms);
    api::Context context;
    context.__set_budget_ms(static_cast<int32_t>(std::clamp<int64_t>(budget_ms, 1, INT32_MAX)));
    call(*wire_, context);
    return failure;
  } catch (const api::KvError& e) {
    failure.status = FromKvError(e);
    failure.retryable = e.retryable && e.applied == api::g_pando_constants.APPLIED_NO;
    failure.pause_ms = e.retry_after_ms;
  } catch (const TTransportException& e) {
    failure.broken = true;
    Code code = e.getType() == TTransportException::TIMED_OUT ? Code::kDeadline : Code::kUnavailable;
    failure.status = failure.never_sent
                         ? Error(code, "cannot reach {}: {}; check the address and that kvnode runs there",
                                 target_.address, e.what())
                         : Error(code, "lost the connection to {}: {}", target_.address, e.what());
  } catch (const apache::thrift::TApplicationException& e) {
    failure.status =
        Error(Code::kUnsupported, "the server at {} does not support this call: {}", target_.address, e.what());
  } catch (const std::exception& e) {
    failure.broken = true;
    failure.status = Error(Code::kCorruption, "the answer of {} cannot be decoded: {}", target_.address, e.what());
  }
  if (failure.broken) wire_.reset();
  if (Status interrupted = tools::Interrupts::Check(); !interrupted.ok()) failure.status = std::move(interrupted);
  return failure;
}

Status Client::Retry(Repeat repeat, const std::function<void(Wire&, const api::Context&)>& call) {
  RETURN_IF_ERROR(Resolve());
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(target_.timeout_ms);
  for (int64_t pause_ms = kFirstPauseMs;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
    RETURN_IF_ERROR(tools::Interrupts::Check());
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    Failure failure = Attempt(call, std::max<int64_t>(left, 1));
    if (failure.status.ok()) return Status();
    // A failed connection attempt is not retried: at a prompt, waiting for a server that does not
    // run does not help.
    bool again = failure.retryable || (failure.broken && !failure.never_sent && repeat == Repeat::kSafe);
    int64_t wait_ms = std::max(pause_ms, failure.pause_ms);
    left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (!again || left <= wait_ms) return failure.status;
    if (!tools::Interrupts::Sleep(wait_ms)) return tools::Interrupts::Check();
  }
}

Status Client::Kv(Repeat repeat, const KvCall& call) {
  return Retry(repeat, [&](Wire& wire, const api::Context& context) { call(wire.kv, context); });
}

Status Client::Admin(Repeat repeat, const AdminCall& call) {
  return Retry(repeat, [&](Wire& wire, const api::Context& context) { call(wire.admin, context); });
}

Status Client::Once(const KvCall& call) {
  RETURN_IF_ERROR(Resolve());
  auto wrapped = [&](Wire& wire, const api::Context& context) { call(wire.kv, context); };
  // Half of the budget, so that an attempt without an answer leaves time for another one.
  return Attempt(wrapped, std::max<int64_t>(target_.timeout_ms / 2, 1)).status;
}

}  // namespace pando::admin
