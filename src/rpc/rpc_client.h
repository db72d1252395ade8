// RpcClient is one connection to a framed Thrift server. Calls are pipelined, replies are matched by
// sequence ID, in whatever order they arrive, and each call has its own deadline.
//
//   RpcClient client(reactor);
//   CO_RETURN_IF_ERROR(co_await client.Connect("10.0.0.2", 7420, kSecond));
//   api::Kv_get_args args; ...
//   api::Kv_get_result result;
//   CO_RETURN_IF_ERROR(co_await client.Call("get", &args, &result, 100 * kMillisecond));
//   co_await client.Close();
//
// A call that reaches its deadline returns kDeadline at once; a reply that arrives later is
// dropped. Until it arrives, the call counts toward max_calls. When the connection breaks, every call in progress
// returns kAborted, and it is unknown whether the server carried it out. The client does not reconnect by itself.
//
// Replies that arrive in pieces are collected. With RpcClientOptions::memory, room for the whole frame is reserved
// first; if there is none, the frame is skipped, and its call returns kOverloaded.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "src/base/memory_budget.h"
#include "src/io/byte_filter.h"
#include "src/io/reactor.h"
#include "src/io/task.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

struct RpcClientOptions {
  WireProtocol protocol = WireProtocol::kBinary;
  size_t max_calls = 1024;              // calls without a reply; further calls return kOverloaded
  size_t max_unsent_bytes = 16u << 20;  // further calls return kOverloaded
  ByteFilters* filters = nullptr;       // for the connection; must outlive the client; null: none
  BudgetAccount* memory = nullptr;      // for frames that arrive in pieces; outlives the client; null: not counted
  std::function<void()> on_closed;      // the connection has ended; must not destroy the client
};

class RpcClient;

// One request and its reply, as the bytes that they are. Its owner keeps it alive until it is resumed.
struct RpcExchange : Timer {
  virtual ~RpcExchange() = default;
  // The reply, which is valid during the call only. `client` expects nothing else of this exchange. The result
  // is what the owner gets as `status`.
  virtual Status OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) = 0;

  // For whom it is made; 0: not counted. RpcClient::unanswered_of tells how many have no reply yet.
  uint64_t owner = 0;
  // The reply says what came of a write: it is read even when memory is short.
  bool must_arrive = false;
  // During OnReply: the string that has the frame, and nothing else, and that may be taken. Null: there is none.
  std::string* storage = nullptr;

  // When it ends: OK; kDeadline; kAborted: the connection broke, and it is unknown whether the server carried the
  // call out. When it was not sent: what Send returned.
  Status status;

 private:
  friend class RpcClient;
  RpcClient* client_ = nullptr;
  int32_t seqid_ = 0;
  std::coroutine_handle<> waiter_;
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
    call.reply = reply;
    if (Status status = SendArgs(method, *args); !status.ok()) co_return status;
    // Suspends until the reply, the deadline or the end of the connection. `call` stays in this
    // frame.
    co_await Begin(&call, timeout_ns);
    co_return call.status;
  }
  // Sends a request whose arguments are encoded already: `head` followed by `rest`. If it returns OK, the caller
  // must await Begin at once, without a suspension in between.
  Status Send(WireProtocol protocol, std::string_view method, std::string_view head, std::string_view rest) {
    RETURN_IF_ERROR(Admit());
    const size_t before = out_.size();
    codec_.WriteEncoded(Header(protocol, method), head, rest, &out_);
    return CheckFrame(before);
  }
  struct Awaiter {
    RpcClient* client;
    RpcExchange* exchange;
    Nanos timeout_ns;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h);
    void await_resume() const noexcept {}
  };
  Awaiter Begin(RpcExchange* exchange, Nanos timeout_ns) { return {this, exchange, timeout_ns}; }
  // Nobody needs the reply any more: the exchange ends with `why`. Does nothing if it has ended.
  void Abandon(RpcExchange* exchange, Status why);
  // The arguments and the reply of a call whose owner needs the exchange itself.
  template <typename Args>
  Status SendArgs(std::string_view method, const Args& args) {
    RETURN_IF_ERROR(Admit());
    const size_t before = out_.size();
    codec_.Write(Header(options_.protocol, method), args, &out_);
    return CheckFrame(before);
  }
  template <typename Reply>
  struct TypedCall final : RpcExchange {
    Reply* reply = nullptr;
    MemoryGrant* memory = nullptr;          // grows by what the decoded reply takes, before it does; null: not counted
    size_t entry_bytes = kReplyEntryBytes;  // that an entry of its lists takes
    Status OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) override {
      if (header.type == apache::thrift::protocol::T_EXCEPTION) return ToStatus(header, body, codec);
      if (memory == nullptr) return codec->Read(header.protocol, body, reply);
      Status read = codec->ReadReply(header.protocol, body, reply, memory, entry_bytes, must_arrive);
      return read.code() == Code::kOverloaded ? NoMemory(body.size()) : read;
    }
  };

  // What a reply is that is a TApplicationException.
  static Status ToStatus(const MessageHeader& header, std::string_view body, ThriftCodec* codec);

  // Closes the connection and waits until every call has returned.
  Task<void> Close();

  bool connected() const { return connection_ != nullptr; }
  const Status& broken() const { return broken_; }  // why there is no connection
  size_t calls_in_progress() const { return calls_; }
  // Those whose reply has not arrived, even if nobody waits for it any more.
  size_t unanswered() const { return expected_.size(); }
  size_t unanswered_of(uint64_t owner) const {
    const auto at = unanswered_of_.find(owner);
    return at == unanswered_of_.end() ? 0 : at->second;
  }

 private:
  MessageHeader Header(WireProtocol protocol, std::string_view method) const {
    return {protocol, apache::thrift::protocol::T_CALL, next_seqid_, method};
  }
  static Status NoMemory(size_t bytes);
  Status Admit() const;
  // Takes the frame that begins at this byte of out_ back, with kInvalidArgument, if it is longer than any server
  // reads: it would end the connection, with all other calls on it.
  Status CheckFrame(size_t begin);
  void Finish(RpcExchange* exchange, Status status);
  void OnTimeout(RpcExchange* exchange);
  void OnData(std::span<const char> bytes) override;
  void OnSent() override {}
  void OnClosed(const Status& reason) override;
  void OnTurnEnd() override;
  // Keeps the beginning of a frame until the rest has come.
  void Keep(std::string_view rest, bool kept);
  bool ReserveFrame(size_t bytes, std::string_view rest);
  void ReleaseFrame();
  // `storage`: as RpcExchange::storage.
  Status OnFrame(std::string_view frame, std::string* storage);
  Status NoFrame(std::string_view head, uint32_t length) const;
  // Closes the connection because the byte stream can no longer be trusted.
  void Break(Status reason);

  Reactor& reactor_;
  const RpcClientOptions options_;
  ThriftCodec codec_;
  Connection* connection_ = nullptr;
  std::string peer_;
  Status broken_;  // why the connection ended
  std::string in_, out_;
  size_t reserved_ = 0;  // for the frame in in_
  size_t skip_ = 0;      // so many bytes of a frame that is skipped are still to come
  struct Expected {
    RpcExchange* exchange = nullptr;  // null: the call has already returned (deadline)
    uint64_t owner = 0;
  };
  void Forget(std::unordered_map<int32_t, Expected>::iterator expected);
  std::unordered_map<int32_t, Expected> expected_;      // by sequence ID
  std::unordered_map<uint64_t, size_t> unanswered_of_;  // by owner; none is 0
  size_t calls_ = 0;                                    // calls that have not finished
  int32_t next_seqid_ = 1;
};

}  // namespace pando
