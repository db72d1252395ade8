#include "tools/kvadmin/client.h"

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSocket.h>

#include <algorithm>
#include <charconv>
#include <thread>

#include "gen-cpp/pando_constants.h"

namespace pando::admin {

namespace {

using apache::thrift::transport::TFramedTransport;
using apache::thrift::transport::TSocket;
using apache::thrift::transport::TTransportException;

constexpr int64_t kFirstPauseMs = 20;
constexpr int64_t kMaxPauseMs = 500;

}  // namespace

struct Client::Wire {
  Wire(const std::string& host, int port)
      : socket(std::make_shared<TSocket>(host, port)),
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
  std::shared_ptr<TSocket> socket;
  std::shared_ptr<TFramedTransport> transport;
  std::shared_ptr<apache::thrift::protocol::TBinaryProtocol> protocol;
  api::KvClient kv;
  api::AdminClient admin;
};

Result<std::pair<std::string, int>> SplitAddress(const std::string& address) {
  size_t colon = address.rfind(':');
  int port = 0;
  if (colon != std::string::npos) {
    const char* end = address.data() + address.size();
    auto [stop, error] = std::from_chars(address.data() + colon + 1, end, port);
    if (error != std::errc() || stop != end) port = 0;
  }
  if (colon == 0 || port < 1 || port > 65535) {
    return Error(Code::kInvalidArgument, "--server={}: expected host:port, such as 127.0.0.1:7420", address);
  }
  return std::pair<std::string, int>(address.substr(0, colon), port);
}

Status FromKvError(const api::KvError& error) {
  const auto& c = api::g_pando_constants;
  Code code = Code::kUnavailable;
  if (error.code == c.BAD_REQUEST || error.code == c.TOO_LARGE || error.code == c.BAD_CURSOR) {
    code = Code::kInvalidArgument;
  } else if (error.code == c.SNAPSHOT_GONE) {
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

Client::Client(Target target) : target_(std::move(target)) {}
Client::~Client() = default;

Status Client::Resolve() {
  if (port_ != 0) return Status();
  ASSIGN_OR_RETURN(auto address, SplitAddress(target_.address));
  std::tie(host_, port_) = address;
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
                         ? Error(code, "cannot reach {}: {}; is kvnode running there?", target_.address, e.what())
                         : Error(code, "lost the connection to {}: {}", target_.address, e.what());
  } catch (const apache::thrift::TApplicationException& e) {
    failure.status = Error(Code::kUnsupported, "{} does not know this call: {}", target_.address, e.what());
  } catch (const std::exception& e) {
    failure.broken = true;
    failure.status =
        Error(Code::kCorruption, "{} answered with bytes that do not decode: {}", target_.address, e.what());
  }
  if (failure.broken) wire_.reset();
  return failure;
}

Status Client::Retry(Repeat repeat, const std::function<void(Wire&, const api::Context&)>& call) {
  RETURN_IF_ERROR(Resolve());
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(target_.timeout_ms);
  for (int64_t pause_ms = kFirstPauseMs;; pause_ms = std::min(pause_ms * 2, kMaxPauseMs)) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    Failure failure = Attempt(call, std::max<int64_t>(left, 1));
    if (failure.status.ok()) return Status();
    // A refused connection is final at once: waiting for a server that is not there helps nobody at a prompt.
    bool again = failure.retryable || (failure.broken && !failure.never_sent && repeat == Repeat::kSafe);
    int64_t wait_ms = std::max(pause_ms, failure.pause_ms);
    left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (!again || left <= wait_ms) return failure.status;
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
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
  return Attempt(wrapped, target_.timeout_ms).status;
}

}  // namespace pando::admin
