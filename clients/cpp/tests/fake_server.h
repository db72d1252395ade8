// A server that answers as a test says: with any reply, to any method, under any sequence id, or not at all.
//
// Threads: the handler is called by one thread for each connection; its own state needs a lock if a test uses several.
#pragma once

#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/transport/TBufferTransports.h>

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "pando_types.h"

namespace pando::client::testing {

using Protocol = apache::thrift::protocol::TBinaryProtocol;
using Memory = apache::thrift::transport::TMemoryBuffer;

struct Request {
  std::string method;
  std::int32_t sequence = 0;
  int connection = 0;  // from 1, in the order in which they came
  api::Context context;
  std::string arguments;  // the bytes of the struct of the arguments

  // The request struct of the method.
  template <class T>
  T as() const {
    T result;
    read_arguments(nullptr, [&](Protocol* from) { result.read(from); });
    return result;
  }
  void read_arguments(api::Context* context, const std::function<void(Protocol*)>& read_request) const;
};

// What the server sends. Then it closes the connection, or reads the next request.
struct Answer {
  std::string bytes;
  bool close = false;
  std::chrono::milliseconds pause_after_each_byte{0};
};

// A frame with these bytes.
std::string frame(const std::string& payload);
// A message with a result struct in which one field is set: 0 = success, 1 = error.
std::string message(const std::string& method, std::int32_t sequence, std::int16_t field,
                    const std::function<void(Protocol*)>& write);

template <class T>
Answer reply(const Request& to, const T& success) {
  return {frame(message(to.method, to.sequence, 0, [&](Protocol* out) { success.write(out); }))};
}

Answer failure(const Request& to, const api::KvError& error);
api::KvError kv_error(std::int32_t code, std::int32_t applied, bool retryable, std::int32_t retry_after_ms = 0);
// What a router says of itself, without the features named.
api::HelloReply hello(const std::vector<std::string>& without = {});

class FakeServer {
 public:
  // nullopt: hello is answered as a router does; for the others, the connection is closed.
  using Handler = std::function<std::optional<Answer>(const Request&)>;

  explicit FakeServer(Handler handler);
  ~FakeServer();

  const std::string& address() const { return address_; }
  // So far, without hello. A copy.
  std::vector<Request> requests() const;
  std::vector<Request> requests(const std::string& method) const;
  int connections() const;

 private:
  void accept_loop();
  void serve(int fd, int number);
  bool answer(int fd, const Request& request);

  const Handler handler_;
  std::string address_;
  int listener_ = -1;
  mutable std::mutex mutex_;
  bool stopping_ = false;
  int connections_ = 0;
  std::vector<int> open_;
  std::vector<Request> requests_;
  std::list<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace pando::client::testing
