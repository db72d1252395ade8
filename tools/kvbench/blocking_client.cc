#include "tools/kvbench/blocking_client.h"

#include <sys/socket.h>

#include <cerrno>

#include "tools/kvbench/data.h"

namespace pando::bench {

BlockingClient::BlockingClient(const Protocol& protocol, RecordShape shape, std::vector<uint16_t> ports, size_t first,
                               int64_t timeout_ms)
    : protocol_(protocol),
      shape_(shape),
      ports_(std::move(ports)),
      timeout_ms_(timeout_ms),
      sockets_(ports_.size()),
      at_(first % ports_.size()) {}

Status BlockingClient::Failed(Status status) {
  ++tried_;
  at_ = (at_ + 1) % ports_.size();
  return status;
}

Result<std::string_view> BlockingClient::Exchange(const std::string& request) {
  Socket& socket = sockets_[at_];
  if (socket.fd() < 0) {
    ASSIGN_OR_RETURN(socket, ConnectLoopback(ports_[at_], timeout_ms_));
  }
  auto broken = [&](Status status) {
    socket = Socket();
    return status;
  };
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = ::send(socket.fd(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return broken(ErrnoError(errno, "send to port {}", ports_[at_]));
    sent += static_cast<size_t>(n);
  }
  answer_.clear();
  char buffer[4096];
  while (true) {
    const size_t length = protocol_.ReplyBytes(answer_);
    if (length == Protocol::kGarbage || (length > 0 && answer_.size() > length)) {
      return broken(Error(Code::kCorruption, "port {} sent bytes that are not an answer", ports_[at_]));
    }
    if (length > 0 && answer_.size() == length) return std::string_view(answer_);
    const ssize_t n = ::recv(socket.fd(), buffer, sizeof(buffer), 0);
    if (n < 0) return broken(ErrnoError(errno, "wait for an answer from port {}", ports_[at_]));
    if (n == 0) return broken(Error(Code::kUnavailable, "port {} closed the connection", ports_[at_]));
    answer_.append(buffer, static_cast<size_t>(n));
  }
}

Status BlockingClient::Put(uint64_t index) {
  const std::string key = MakeKey(index, shape_.key_bytes);
  request_.clear();
  char* value = protocol_.AppendPut(key, &request_);
  FillValue(key, index, value, shape_.value_bytes, shape_.compressible_percent);
  protocol_.EncodeValue(value);
  Result<std::string_view> answer = Exchange(request_);
  if (!answer.ok()) return Failed(answer.TakeStatus());
  if (protocol_.Parse(OpKind::kPut, *answer).outcome != Outcome::kOk) {
    return Failed(Error(Code::kUnavailable, "{}", protocol_.Describe(OpKind::kPut, *answer)));
  }
  tried_ = 0;
  return Status();
}

Status BlockingClient::Get(uint64_t index) {
  const std::string key = MakeKey(index, shape_.key_bytes);
  request_.clear();
  protocol_.AppendGet(key, &request_);
  Result<std::string_view> answer = Exchange(request_);
  if (!answer.ok()) return Failed(answer.TakeStatus());
  const Reply reply = protocol_.Parse(OpKind::kGet, *answer);
  if (reply.outcome == Outcome::kError) {
    return Failed(Error(Code::kUnavailable, "{}", protocol_.Describe(OpKind::kGet, *answer)));
  }
  tried_ = 0;
  if (reply.outcome == Outcome::kNotFound) return Error(Code::kNotFound, "record {} is not there", index);
  if (!CheckValue(key, reply.value, shape_.value_bytes, shape_.compressible_percent)) {
    return Error(Code::kCorruption, "record {} has a value that was not stored there", index);
  }
  return Status();
}

}  // namespace pando::bench
