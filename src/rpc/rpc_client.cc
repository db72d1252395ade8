#include "src/rpc/rpc_client.h"

#include "src/base/codec.h"

namespace pando {

namespace {

constexpr Nanos kClosePollNs = kMillisecond;

// The body of a TApplicationException.
struct ExceptionBody {
  TApplicationException exception;
  void read(apache::thrift::protocol::TProtocol* protocol) { exception.read(protocol); }
};

}  // namespace

RpcClient::RpcClient(Reactor& reactor, RpcClientOptions options)
    : reactor_(reactor), options_(options), broken_(Code::kUnavailable, "the client is not connected") {}

RpcClient::~RpcClient() {
  CHECK(connection_ == nullptr && calls_ == 0) << "an RpcClient was destroyed before its Close had finished";
}

Task<Status> RpcClient::Connect(std::string host, uint16_t port, Nanos timeout_ns) {
  CHECK(connection_ == nullptr) << "the RpcClient is already connected";
  Result<Connection*> connection = co_await reactor_.Connect(std::move(host), port, timeout_ns);
  if (!connection.ok()) co_return connection.TakeStatus();
  connection_ = *connection;
  if (options_.filters != nullptr) {
    connection_ = AddFilter(reactor_, connection_, options_.filters->MakeFilter(reactor_));
  }
  peer_ = connection_->identity().address;
  broken_ = Status();
  connection_->SetHandler(this);
  co_return Status();
}

Task<void> RpcClient::Close() {
  if (connection_ != nullptr) {
    broken_ = Error(Code::kAborted, "this client closed the connection to {}", peer_);
    connection_->Close(/*now=*/true);
  }
  // Poll until OnClosed has come and every call has ended. Closing is rare, so polling is good
  // enough.
  while (connection_ != nullptr || calls_ > 0) co_await Sleep(reactor_, kClosePollNs);
}

Status RpcClient::Admit() const {
  if (connection_ == nullptr || !broken_.ok()) return broken_;
  if (calls_ >= options_.max_calls) {
    return Error(Code::kOverloaded, "{} calls to {} are in progress, which is the limit; retry later", calls_, peer_);
  }
  if (size_t unsent = connection_->unsent_bytes() + out_.size(); unsent >= options_.max_unsent_bytes) {
    return Error(Code::kOverloaded, "{} bytes to {} are not sent yet and the limit is {}; retry later", unsent, peer_,
                 options_.max_unsent_bytes);
  }
  return {};
}

void RpcClient::WaitAwaiter::await_suspend(std::coroutine_handle<> h) {
  ++client->calls_;
  call->waiter = h;
  call->on_fire = [](Timer* t) {
    auto* late = static_cast<PendingCall*>(t);
    late->client->OnTimeout(late);
  };
  client->expected_.push_back({call->seqid, call});
  client->reactor_.ArmTimer(call, client->reactor_.NowNs() + timeout_ns);
  client->reactor_.ArmTurnHook(client);
}

void RpcClient::Finish(PendingCall* call, Status status) {
  reactor_.CancelTimer(call);
  call->status = std::move(status);
  --calls_;
  reactor_.Schedule(call->waiter);
}

void RpcClient::OnTimeout(PendingCall* call) {
  for (Expected& expected : expected_) {
    if (expected.call == call) expected.call = nullptr;
  }
  Finish(call, Error(Code::kDeadline, "{} did not answer before the call's deadline", peer_));
}

void RpcClient::OnTurnEnd() {
  if (connection_ != nullptr && !out_.empty()) connection_->Send(&out_);
}

void RpcClient::OnData(std::span<const char> bytes) {
  if (!broken_.ok()) return;
  in_.append(bytes.data(), bytes.size());
  std::string_view rest = in_;
  while (rest.size() >= kFrameHeaderBytes) {
    uint32_t length = __builtin_bswap32(LoadLE<uint32_t>(rest.data()));
    if (length > kMaxFrameBytes) {
      return Break(
          Error(Code::kCorruption, "{} sent a frame of {} bytes; the limit is {}", peer_, length, kMaxFrameBytes));
    }
    if (rest.size() < kFrameHeaderBytes + length) break;
    if (Status status = OnFrame(rest.substr(kFrameHeaderBytes, length)); !status.ok()) return Break(std::move(status));
    rest.remove_prefix(kFrameHeaderBytes + length);
  }
  in_.erase(0, in_.size() - rest.size());
}

Status RpcClient::OnFrame(std::string_view frame) {
  MessageHeader header;
  if (Status status = DecodeMessageHeader(&frame, &header); !status.ok()) {
    return Error(Code::kCorruption, "{}: {}", peer_, status.message());
  }
  if (expected_.empty() || expected_.front().seqid != header.seqid) {
    return Error(Code::kCorruption, "{} answered call {} out of order", peer_, header.seqid);
  }
  PendingCall* call = expected_.front().call;
  expected_.pop_front();
  if (call == nullptr) return {};  // its deadline has passed
  if (header.type == apache::thrift::protocol::T_EXCEPTION) {
    ExceptionBody body;
    Status status = codec_.Read(header.protocol, frame, &body);
    Finish(call, status.ok() ? Error(Code::kUnsupported, "{}: {}", peer_, body.exception.what()) : status);
    return {};
  }
  Finish(call, call->Decode(&codec_, header.protocol, frame));
  return {};
}

void RpcClient::Break(Status reason) {
  broken_ = std::move(reason);
  connection_->Close(/*now=*/true);
}

void RpcClient::OnClosed(const Status& reason) {
  connection_ = nullptr;
  if (broken_.ok()) {
    broken_ = Error(Code::kAborted, "the connection to {} ended: {}", peer_, reason.ok() ? "closed" : reason.message());
  }
  std::deque<Expected> lost;
  lost.swap(expected_);
  std::string().swap(in_);
  std::string().swap(out_);
  for (Expected& expected : lost) {
    if (expected.call != nullptr) {
      Finish(expected.call,
             Error(Code::kAborted, "{}; whether the call was carried out is unknown", broken_.message()));
    }
  }
}

}  // namespace pando
