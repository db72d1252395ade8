// RawPeer: the client end of a connection under a test's control. It sends bytes as they are, and
// splits the received bytes into frames.
//
// Threads: one reactor.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/Kv.h"
#include "src/base/codec.h"
#include "src/io/reactor.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

class RawPeer final : public ConnectionHandler {
 public:
  explicit RawPeer(Reactor& reactor) : reactor_(reactor) {}
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;

  Task<Status> Connect(std::string host, uint16_t port) {
    Result<Connection*> connection = co_await reactor_.Connect(std::move(host), port, kSecond);
    if (!connection.ok()) co_return connection.TakeStatus();
    connection_ = *connection;
    connection_->SetHandler(this);
    co_return Status();
  }
  void Send(std::string bytes) {
    if (connection_ != nullptr) connection_->Send(&bytes);
  }
  void Pause() { connection_->PauseReceive(); }
  void Resume() { connection_->ResumeReceive(); }
  // Waits until `count` frames have arrived or the connection has ended.
  Task<void> UntilFrames(size_t count) {
    while (frames.size() < count && !closed) co_await Sleep(reactor_, 100 * kMicrosecond);
  }
  Task<void> UntilClosed() {
    while (!closed) co_await Sleep(reactor_, kMillisecond);
  }
  Task<void> Close() {
    if (connection_ != nullptr) connection_->Close(true);
    while (!closed) co_await Sleep(reactor_, kMillisecond);
  }

  std::vector<std::string> frames;  // payloads without their length prefix
  std::string rest;                 // bytes of an incomplete frame
  bool closed = false;

 private:
  void OnData(std::span<const char> bytes) override {
    rest.append(bytes.data(), bytes.size());
    while (rest.size() >= kFrameHeaderBytes) {
      size_t whole = kFrameHeaderBytes + __builtin_bswap32(LoadLE<uint32_t>(rest.data()));
      if (rest.size() < whole) break;
      frames.push_back(rest.substr(kFrameHeaderBytes, whole - kFrameHeaderBytes));
      rest.erase(0, whole);
    }
  }
  void OnSent() override {}
  void OnClosed(const Status&) override {
    connection_ = nullptr;
    closed = true;
  }

  Reactor& reactor_;
  Connection* connection_ = nullptr;
};

// Encodes one framed call.
template <typename Args>
std::string EncodeCall(const std::string& method, int32_t seqid, const Args& args,
                       WireProtocol protocol = WireProtocol::kBinary,
                       ThriftMessageType type = apache::thrift::protocol::T_CALL) {
  ThriftCodec codec;
  std::string out;
  codec.Write(MessageHeader{protocol, type, seqid, method}, args, &out);
  return out;
}

inline std::string GetCall(int32_t seqid, const std::string& key, int32_t budget_ms = 0,
                           WireProtocol protocol = WireProtocol::kBinary) {
  api::Kv_get_args args;
  args.context.budget_ms = budget_ms;
  args.request.key = key;
  return EncodeCall("get", seqid, args, protocol);
}

// A decoded reply: a result struct, or the type and text of a TApplicationException.
template <typename Reply>
struct DecodedReply {
  Status status;
  MessageHeader header;
  Reply result;
  int exception_type = -1;
  std::string exception;
};

template <typename Reply>
DecodedReply<Reply> DecodeReply(std::string_view frame) {
  struct ExceptionBody {
    TApplicationException exception;
    void read(apache::thrift::protocol::TProtocol* protocol) { exception.read(protocol); }
  };
  DecodedReply<Reply> reply;
  reply.status = DecodeMessageHeader(&frame, &reply.header);
  if (!reply.status.ok()) return reply;
  ThriftCodec codec;
  if (reply.header.type == apache::thrift::protocol::T_EXCEPTION) {
    ExceptionBody body;
    reply.status = codec.Read(reply.header.protocol, frame, &body);
    reply.exception_type = body.exception.getType();
    reply.exception = body.exception.what();
  } else {
    reply.status = codec.Read(reply.header.protocol, frame, &reply.result);
  }
  return reply;
}

}  // namespace pando
