// RpcClient is one connection to a framed Thrift server. Calls are pipelined, replies arrive in
// order, and each call has its own deadline.
//
//   RpcClient client(reactor);
//   CO_RETURN_IF_ERROR(co_await client.Connect("10.0.0.2", 7420, kSecond));
//   api::Kv_get_args args; ...
//   api::Kv_get_result result;
//   CO_RETURN_IF_ERROR(co_await client.Call("get", &args, &result, 100 * kMillisecond));
//   co_await client.Close();
//
// A call that reaches its deadline returns kDeadline at once; a reply that arrives later is
// dropped. When the connection breaks, every call in progress returns kAborted, and it is unknown
// whether the server carried it out. The client does not reconnect by itself.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "src/io/byte_filter.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

struct RpcClientOptions {
  WireProtocol protocol = WireProtocol::kBinary;
  size_t max_calls = 1024;              // calls in progress; further calls return kOverloaded
  size_t max_unsent_bytes = 16u << 20;  // further calls return kOverloaded
  ByteFilters* filters = nullptr;       // for the connection; must outlive the client; null: none
};

class RpcClient final : private ConnectionHandler, private TurnHook {
 public:
  explicit RpcClient(Reactor& reactor, RpcClientOptions options = {});
  ~RpcClient();  // REQUIRES: the client was never connected, or Close has finished

  // With a filter, the first call waits for its handshake. If that fails, so do all calls.
  Task<Status> Connect(std::string host, uint16_t port, Nanos timeout_ns);
  // `Args` and `Reply` are the generated Kv_xxx_args and Kv_xxx_result, which can be neither copied
  // nor moved. Both must outlive the task, and `reply` is not touched after the task has finished.
  // A KvError arrives inside the reply; a TApplicationException from the server becomes
  // kUnsupported.
  template <typename Args, typename Reply>
  Task<Status> Call(std::string method, const Args* args, Reply* reply, Nanos timeout_ns) {
    TypedCall<Reply> call;
    if (Status status = Admit(); !status.ok()) co_return status;
    call.client = this;
    call.seqid = next_seqid_++;
    call.reply = reply;
    MessageHeader header{options_.protocol, apache::thrift::protocol::T_CALL, call.seqid, method};
    codec_.Write(header, *args, &out_);
    // Suspends until the reply, the deadline or the end of the connection. `call` stays in this
    // frame.
    co_await Wait(&call, timeout_ns);
    co_return call.status;
  }
  // Closes the connection and waits until every call has returned.
  Task<void> Close();

  bool connected() const { return connection_ != nullptr; }
  size_t calls_in_progress() const { return calls_; }

 private:
  struct PendingCall : Timer {
    RpcClient* client = nullptr;
    int32_t seqid = 0;
    Status status;
    std::coroutine_handle<> waiter;
    virtual Status Decode(ThriftCodec* codec, WireProtocol protocol, std::string_view body) = 0;

   protected:
    ~PendingCall() = default;
  };
  template <typename Reply>
  struct TypedCall final : PendingCall {
    Reply* reply = nullptr;
    Status Decode(ThriftCodec* codec, WireProtocol protocol, std::string_view body) override {
      return codec->Read(protocol, body, reply);
    }
  };
  struct Expected {
    int32_t seqid = 0;
    PendingCall* call = nullptr;  // null: the call has already returned (deadline)
  };

  Status Admit() const;
  struct WaitAwaiter {
    RpcClient* client;
    PendingCall* call;
    Nanos timeout_ns;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h);
    void await_resume() const noexcept {}
  };
  WaitAwaiter Wait(PendingCall* call, Nanos timeout_ns) { return {this, call, timeout_ns}; }
  void Finish(PendingCall* call, Status status);
  void OnTimeout(PendingCall* call);
  void OnData(std::span<const char> bytes) override;
  void OnSent() override {}
  void OnClosed(const Status& reason) override;
  void OnTurnEnd() override;
  Status OnFrame(std::string_view frame);
  // Closes the connection because the byte stream can no longer be trusted.
  void Break(Status reason);

  Reactor& reactor_;
  const RpcClientOptions options_;
  ThriftCodec codec_;
  Connection* connection_ = nullptr;
  std::string peer_;
  Status broken_;  // why the connection ended
  std::string in_, out_;
  std::deque<Expected> expected_;  // in the order of sending
  size_t calls_ = 0;               // calls that have not finished
  int32_t next_seqid_ = 1;
};

}  // namespace pando
