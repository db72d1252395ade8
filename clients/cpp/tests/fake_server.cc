#include "fake_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace pando::client::testing {
namespace {

using namespace apache::thrift::protocol;

bool read_exactly(int fd, void* to, std::size_t bytes) { return ::recv(fd, to, bytes, MSG_WAITALL) == ssize_t(bytes); }

Request parse(const std::string& payload, int connection) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(const_cast<char*>(payload.data()));
  const auto memory = std::make_shared<Memory>(bytes, static_cast<std::uint32_t>(payload.size()));
  Protocol from(memory);
  Request request;
  TMessageType type = T_CALL;
  from.readMessageBegin(request.method, type, request.sequence);
  request.arguments = payload.substr(payload.size() - memory->available_read());
  request.connection = connection;
  request.read_arguments(&request.context, nullptr);
  return request;
}

}  // namespace

void Request::read_arguments(api::Context* into, const std::function<void(Protocol*)>& read_request) const {
  auto* bytes = reinterpret_cast<std::uint8_t*>(const_cast<char*>(arguments.data()));
  Protocol from(std::make_shared<Memory>(bytes, static_cast<std::uint32_t>(arguments.size())));
  std::string name;
  TType type = T_STOP;
  std::int16_t id = 0;
  from.readStructBegin(name);
  for (from.readFieldBegin(name, type, id); type != T_STOP; from.readFieldBegin(name, type, id)) {
    if (id == 1 && into != nullptr) {
      into->read(&from);
    } else if (id == 2 && read_request) {
      read_request(&from);
    } else {
      from.skip(type);
    }
    from.readFieldEnd();
  }
}

std::string frame(const std::string& payload) {
  const std::uint32_t length = htonl(static_cast<std::uint32_t>(payload.size()));
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + payload;
}

std::string message(const std::string& method, std::int32_t sequence, std::int16_t field,
                    const std::function<void(Protocol*)>& write) {
  const auto memory = std::make_shared<Memory>();
  Protocol out(memory);
  out.writeMessageBegin(method, T_REPLY, sequence);
  out.writeStructBegin("result");
  out.writeFieldBegin("field", T_STRUCT, field);
  write(&out);
  out.writeFieldEnd();
  out.writeFieldStop();
  out.writeStructEnd();
  out.writeMessageEnd();
  return memory->getBufferAsString();
}

Answer failure(const Request& to, const api::KvError& error) {
  return {frame(message(to.method, to.sequence, 1, [&](Protocol* out) { error.write(out); }))};
}

api::KvError kv_error(std::int32_t code, std::int32_t applied, bool retryable, std::int32_t retry_after_ms) {
  api::KvError error;
  error.__set_code(code);
  error.__set_message("scripted");
  error.__set_applied(applied);
  error.__set_retryable(retryable);
  error.__set_retry_after_ms(retry_after_ms);
  return error;
}

api::HelloReply hello(const std::vector<std::string>& without) {
  api::HelloReply reply;
  reply.__set_server_version("fake");
  reply.__set_api_version(2);
  reply.__set_now_ms(1'000'000);
  reply.limits.__set_max_frame_bytes(4 << 20);
  reply.__isset.limits = true;
  for (const std::string name : {"clocks", "idempotent_writes"}) {
    if (std::find(without.begin(), without.end(), name) == without.end()) reply.features.push_back(name);
  }
  reply.__isset.features = true;
  return reply;
}

FakeServer::FakeServer(Handler handler) : handler_(std::move(handler)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_, 64) != 0 ||
      ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::runtime_error("the fake server cannot listen");
  }
  address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  acceptor_ = std::thread([this] { accept_loop(); });
}

FakeServer::~FakeServer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  ::close(listener_);
}

void FakeServer::accept_loop() {
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::lock_guard lock(mutex_);
    if (stopping_ || fd < 0) {
      if (fd >= 0) ::close(fd);
      return;
    }
    open_.push_back(fd);
    threads_.emplace_back([this, fd, number = ++connections_] { serve(fd, number); });
  }
}

void FakeServer::serve(int fd, int number) {
  std::uint32_t length = 0;
  while (read_exactly(fd, &length, sizeof length)) {
    std::string payload(ntohl(length), '\0');
    if (!read_exactly(fd, payload.data(), payload.size())) break;
    const Request request = parse(payload, number);
    if (request.method != "hello") {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    if (!answer(fd, request)) break;
  }
  const std::lock_guard lock(mutex_);
  std::erase(open_, fd);
  ::close(fd);
}

bool FakeServer::answer(int fd, const Request& request) {
  std::optional<Answer> answer = handler_(request);
  if (!answer && request.method == "hello") answer = reply(request, hello());
  if (!answer) return false;
  const std::size_t step =
      answer->pause_after_each_byte.count() > 0 ? 1 : std::max<std::size_t>(answer->bytes.size(), 1);
  for (std::size_t sent = 0; sent < answer->bytes.size(); sent += step) {
    if (::send(fd, answer->bytes.data() + sent, step, MSG_NOSIGNAL) < 0) return false;
    std::this_thread::sleep_for(answer->pause_after_each_byte);
  }
  return !answer->close;
}

std::vector<Request> FakeServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

std::vector<Request> FakeServer::requests(const std::string& method) const {
  std::vector<Request> result = requests();
  std::erase_if(result, [&](const Request& request) { return request.method != method; });
  return result;
}

int FakeServer::connections() const {
  const std::lock_guard lock(mutex_);
  return connections_;
}

}  // namespace pando::client::testing
