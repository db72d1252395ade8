#include "src/rpc/rpc_client.h"

#include <algorithm>
#include <utility>

#include "src/base/codec.h"

namespace pando {

namespace {

constexpr Nanos kClosePollNs = kMillisecond;
constexpr size_t kMaxIdleBytes = 64u << 10;  // that a buffer keeps while nothing is in it
constexpr size_t kMaxHeadBytes = 1024;       // of a message, before its body

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

Status RpcClient::ToStatus(const MessageHeader& header, std::string_view body, ThriftCodec* codec) {
  ExceptionBody exception;
  RETURN_IF_ERROR(codec->Read(header.protocol, body, &exception));
  return Error(Code::kUnsupported, "{}", exception.exception.what());
}

Status RpcClient::Admit() const {
  if (connection_ == nullptr || !broken_.ok()) return broken_;
  if (expected_.size() >= options_.max_calls) {
    return Error(Code::kOverloaded, "{} calls to {} are in progress, which is the limit; retry later", expected_.size(),
                 peer_);
  }
  if (size_t unsent = connection_->unsent_bytes() + out_.size(); unsent >= options_.max_unsent_bytes) {
    return Error(Code::kOverloaded, "{} bytes to {} are not sent yet and the limit is {}; retry later", unsent, peer_,
                 options_.max_unsent_bytes);
  }
  return {};
}

Status RpcClient::CheckFrame(size_t begin) {
  const size_t bytes = out_.size() - begin - kFrameHeaderBytes;
  if (bytes <= kMaxFrameBytes) return {};
  out_.resize(begin);
  return Error(Code::kInvalidArgument, "the request to {} would have {} bytes; the limit is {} (max_frame_bytes)",
               peer_, bytes, kMaxFrameBytes);
}

void RpcClient::Awaiter::await_suspend(std::coroutine_handle<> h) {
  ++client->calls_;
  exchange->client_ = client;
  exchange->seqid_ = client->next_seqid_;
  client->next_seqid_ = static_cast<int32_t>(static_cast<uint32_t>(client->next_seqid_) + 1);
  exchange->waiter_ = h;
  exchange->on_fire = [](Timer* t) {
    auto* late = static_cast<RpcExchange*>(t);
    late->client_->OnTimeout(late);
  };
  client->expected_[exchange->seqid_] = {exchange, exchange->owner};
  if (exchange->owner != 0) ++client->unanswered_of_[exchange->owner];
  client->reactor_.ArmTimer(exchange, client->reactor_.NowNs() + timeout_ns);
  client->reactor_.ArmTurnHook(client);
}

void RpcClient::Finish(RpcExchange* exchange, Status status) {
  reactor_.CancelTimer(exchange);
  exchange->status = std::move(status);
  --calls_;
  reactor_.Schedule(exchange->waiter_);
}

void RpcClient::OnTimeout(RpcExchange* exchange) {
  Abandon(exchange, Error(Code::kDeadline, "{} did not answer before the call's deadline", peer_));
}

void RpcClient::Forget(std::unordered_map<int32_t, Expected>::iterator expected) {
  if (const uint64_t owner = expected->second.owner; owner != 0) {
    const auto count = unanswered_of_.find(owner);
    if (--count->second == 0) unanswered_of_.erase(count);
  }
  expected_.erase(expected);
}

void RpcClient::Abandon(RpcExchange* exchange, Status why) {
  const auto expected = expected_.find(exchange->seqid_);
  if (expected == expected_.end() || expected->second.exchange != exchange) return;
  expected->second.exchange = nullptr;
  Finish(exchange, std::move(why));
}

void RpcClient::OnTurnEnd() {
  if (connection_ != nullptr && !out_.empty()) connection_->Send(&out_);
}

void RpcClient::OnData(std::span<const char> bytes) {
  if (!broken_.ok()) return;
  if (skip_ > 0) {
    const size_t skipped = std::min(skip_, bytes.size());
    skip_ -= skipped;
    bytes = bytes.subspan(skipped);
    if (bytes.empty()) return;
  }
  // Frames that arrive whole are read where they are; in_ has the beginning of the next one.
  std::string_view rest(bytes.data(), bytes.size());
  const bool kept = !in_.empty();
  if (kept) rest = in_.append(rest);
  while (rest.size() >= kFrameHeaderBytes) {
    uint32_t length = __builtin_bswap32(LoadLE<uint32_t>(rest.data()));
    if (length > kMaxFrameBytes) return Break(NoFrame(rest.substr(0, kFrameHeaderBytes), length));
    if (rest.size() < kFrameHeaderBytes + length) break;
    const bool alone = kept && rest.size() == in_.size() && rest.size() == kFrameHeaderBytes + length;
    Status status = OnFrame(rest.substr(kFrameHeaderBytes, length), alone ? &in_ : nullptr);
    if (!status.ok()) return Break(std::move(status));
    if (alone) {  // the exchange may have taken it
      in_.clear();
      rest = {};
    } else {
      rest.remove_prefix(kFrameHeaderBytes + length);
    }
    ReleaseFrame();
  }
  Keep(rest, kept);
}

void RpcClient::Keep(std::string_view rest, bool kept) {
  size_t whole = rest.size();
  if (rest.size() >= kFrameHeaderBytes) whole = kFrameHeaderBytes + __builtin_bswap32(LoadLE<uint32_t>(rest.data()));
  if (!ReserveFrame(whole, rest)) {
    skip_ = whole - rest.size();
    rest = {};
  }
  if (kept) {
    in_.erase(0, in_.size() - rest.size());
  } else {
    in_.assign(rest);
  }
  if (in_.empty() && in_.capacity() > kMaxIdleBytes) std::string().swap(in_);
  if (reserved_ > 0) in_.reserve(whole);  // it grows once
}

// Text where the length of a frame should be is the answer of another protocol.
Status RpcClient::NoFrame(std::string_view head, uint32_t length) const {
  if (head == "HTTP") {
    return Error(Code::kCorruption,
                 "{} answers HTTP: it is a port for monitoring (--http_port), and not the one for clients (--listen)",
                 peer_);
  }
  if (std::all_of(head.begin(), head.end(), [](char c) { return c >= ' ' && c <= '~'; })) {
    return Error(Code::kCorruption, "{} does not speak framed Thrift: it sent \"{}\"", peer_, head);
  }
  return Error(Code::kCorruption, "{} sent a frame of {} bytes; the limit is {}", peer_, length, kMaxFrameBytes);
}

// False: there is no memory for the frame, and its call has ended.
bool RpcClient::ReserveFrame(size_t bytes, std::string_view rest) {
  if (options_.memory == nullptr || bytes <= std::max(reserved_, kFrameHeaderBytes)) return true;
  if (options_.memory->TryReserve(static_cast<int64_t>(bytes - reserved_))) {
    reserved_ = bytes;
    return true;
  }
  MessageHeader header;
  std::string_view frame = rest.substr(kFrameHeaderBytes);
  // Until the head has arrived, the call is not known. It takes little.
  if (Status head = DecodeMessageHeader(&frame, &header); !head.ok()) {
    if (rest.size() > kMaxHeadBytes) Break(Error(Code::kCorruption, "{}: {}", peer_, head.message()));
    return true;
  }
  const auto expected = expected_.find(header.seqid);
  if (expected == expected_.end()) return true;  // OnFrame breaks the connection
  RpcExchange* exchange = expected->second.exchange;
  if (exchange != nullptr && exchange->must_arrive) {
    options_.memory->Force(static_cast<int64_t>(bytes - reserved_));
    reserved_ = bytes;
    return true;
  }
  Forget(expected);
  if (exchange != nullptr) Finish(exchange, Error(Code::kOverloaded, "{}: {}", peer_, NoMemory(bytes).message()));
  return false;
}

void RpcClient::ReleaseFrame() {
  if (reserved_ > 0) options_.memory->Release(static_cast<int64_t>(std::exchange(reserved_, 0)));
}

Status RpcClient::NoMemory(size_t bytes) {
  return Error(Code::kOverloaded, "its answer has {} bytes, for which there is no memory here; retry later", bytes);
}

Status RpcClient::OnFrame(std::string_view frame, std::string* storage) {
  MessageHeader header;
  if (Status status = DecodeMessageHeader(&frame, &header); !status.ok()) {
    return Error(Code::kCorruption, "{}: {}", peer_, status.message());
  }
  const auto expected = expected_.find(header.seqid);
  if (expected == expected_.end()) {
    return Error(Code::kCorruption, "{} answered call {}, which does not wait for an answer", peer_, header.seqid);
  }
  RpcExchange* exchange = expected->second.exchange;
  Forget(expected);
  if (exchange == nullptr) return {};  // its deadline has passed
  exchange->storage = storage;
  Status status = exchange->OnReply(header, frame, &codec_);
  exchange->storage = nullptr;
  if (!status.ok()) status = Error(status.code(), "{}: {}", peer_, status.message());
  Finish(exchange, std::move(status));
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
  std::unordered_map<int32_t, Expected> lost;
  lost.swap(expected_);
  unanswered_of_.clear();
  std::string().swap(in_);
  std::string().swap(out_);
  ReleaseFrame();
  skip_ = 0;
  for (const auto& [seqid, expected] : lost) {
    if (expected.exchange == nullptr) continue;
    Finish(expected.exchange,
           Error(Code::kAborted, "{}; whether the call was carried out is unknown", broken_.message()));
  }
  if (options_.on_closed) options_.on_closed();
}

}  // namespace pando
