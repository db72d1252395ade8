// One connection to a router or node: framed Thrift, binary protocol, one request at a time.
//
// The client that Thrift generates takes whatever reply comes next: it does not compare sequence ids, and of a reply to
// another method it reads what it can. So this file frames, sends and checks itself, and uses Thrift for the bytes of
// requests and replies only.
//
// Invariant: a call that throws a Failure with `transport` leaves the connection in no defined state; its owner throws
// it away. After all other failures it can be used.
//
// Threads: one at a time, but any thread may call interrupt().
#pragma once

#include <thrift/TApplicationException.h>
#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "pando/types.h"
#include "pando_types.h"
#include "socket.h"

namespace pando::client::detail {

using Protocol = apache::thrift::protocol::TBinaryProtocol;
using Memory = apache::thrift::transport::TMemoryBuffer;

inline constexpr std::int32_t kApiVersion = 2;
// What a reply may have if the server allows no more. A length beyond it is not believed.
inline constexpr std::size_t kMaxReplyBytes = 64u << 20;
// How much later than its budget a request is given up, so that the server's own answer comes first.
inline constexpr std::chrono::milliseconds kReplySlack{100};

ErrorInfo to_info(const api::KvError& error);

// A KvError, with what it carries besides.
struct ServerFailure : Failure {
  api::ReplyContext context;
};

class Connection {
 public:
  // Connects and says hello. Throws Failure; nothing was asked of the server then.
  Connection(const Address& address, std::size_t address_index, const std::string& client_name, Deadline deadline);

  // Sends a request and receives its reply. Throws Failure, or ServerFailure if the server answered KvError.
  template <class Reply, class Request>
  void call(const char* method, const api::Context& context, const Request& request, Reply* reply, Deadline deadline) {
    const std::int32_t sequence = begin_request(method);
    write_arguments(context, [&](Protocol* to) { request.write(to); });
    const std::string_view frame = exchange(deadline);
    read_reply(frame, method, sequence, [&](Protocol* from) { reply->read(from); });
  }

  bool usable() const { return socket_.quiet() && Clock::now() < greet_again_; }
  void interrupt() { socket_.interrupt(); }

  std::size_t address_index() const { return address_index_; }
  const ServerInfo& info() const { return info_; }
  bool has_clocks() const { return has_clocks_; }
  bool remembers_writes() const { return remembers_writes_; }
  // By the clock of the server, as Unix time in ms.
  std::int64_t server_now_ms() const;

 private:
  void hello(const std::string& client_name, Deadline deadline);
  std::int32_t begin_request(const char* method);
  // A function, since the body differs for each method and the rest does not.
  template <class WriteRequest>
  void write_arguments(const api::Context& context, const WriteRequest& write_request) {
    using namespace apache::thrift::protocol;
    out_protocol_.writeStructBegin("arguments");
    out_protocol_.writeFieldBegin("context", T_STRUCT, 1);
    context.write(&out_protocol_);
    out_protocol_.writeFieldEnd();
    out_protocol_.writeFieldBegin("request", T_STRUCT, 2);
    write_request(&out_protocol_);
    out_protocol_.writeFieldEnd();
    out_protocol_.writeFieldStop();
    out_protocol_.writeStructEnd();
    out_protocol_.writeMessageEnd();
  }
  // Sends what was written, and returns the payload of the reply's frame, which lives until the next call.
  std::string_view exchange(Deadline deadline);
  std::size_t frame_length() const;
  void read_reply(std::string_view frame, const char* method, std::int32_t sequence,
                  const std::function<void(Protocol*)>& read_success);

  Socket socket_;
  std::string peer_;
  std::size_t address_index_;
  std::shared_ptr<Memory> out_;
  Protocol out_protocol_;
  std::string in_;
  std::int32_t last_sequence_ = 0;
  std::size_t max_reply_bytes_ = kMaxReplyBytes;
  std::size_t max_request_bytes_ = 0;  // 0 = not known
  ServerInfo info_;
  bool has_clocks_ = false;
  bool remembers_writes_ = false;
  std::int64_t hello_now_ms_ = 0;
  Clock::time_point hello_time_;
  Clock::time_point greet_again_;  // clocks drift, so the connection is not used much longer than an hour
};

}  // namespace pando::client::detail
