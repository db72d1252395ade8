#include "connection.h"

#include <algorithm>
#include <functional>
#include <new>
#include <stdexcept>

namespace pando::client::detail {
namespace {

using apache::thrift::TApplicationException;
using apache::thrift::TConfiguration;
using namespace apache::thrift::protocol;

constexpr std::size_t kHeaderBytes = 4;
constexpr std::size_t kIdleBufferBytes = 256u << 10;  // a buffer that was larger is given back after its call
constexpr std::chrono::hours kHelloAge{1};

Failure protocol_failure(const std::string& peer, const std::string& what) {
  return transport_failure(peer + " sent a reply that makes no sense: " + what, true);
}

// What Thrift's own exception means: see the table in docs/CLIENTS.md.
Failure application_failure(const std::string& peer, const char* method, const TApplicationException& error) {
  using E = TApplicationException;
  const std::string what = peer + " does not serve " + method + ": " + error.what();
  switch (error.getType()) {
    case E::UNKNOWN_METHOD:
    case E::INVALID_MESSAGE_TYPE:
    case E::PROTOCOL_ERROR:
    case E::INVALID_TRANSFORM:
    case E::INVALID_PROTOCOL:
    case E::UNSUPPORTED_CLIENT_TYPE:  // found out before anything was done
      return {{.code = Code::kBadRequest, .message = what, .applied = Applied::kNo}};
    case E::WRONG_METHOD_NAME:
    case E::BAD_SEQUENCE_ID:
    case E::MISSING_RESULT:  // it is no answer to this request
      return protocol_failure(peer, error.what());
    case E::UNKNOWN:
    case E::INTERNAL_ERROR: break;
  }
  return {{.code = Code::kInternal, .message = what, .applied = Applied::kUnknown}};
}

struct Outcome {
  bool success = false;
  bool failed = false;
  api::KvError error;
};

Outcome read_result(Protocol* from, const std::function<void(Protocol*)>& read_success) {
  Outcome outcome;
  std::string name;
  TType type = T_STOP;
  std::int16_t id = 0;
  from->readStructBegin(name);
  for (from->readFieldBegin(name, type, id); type != T_STOP; from->readFieldBegin(name, type, id)) {
    if (id == 0 && type == T_STRUCT) {
      read_success(from);
      outcome.success = true;
    } else if (id == 1 && type == T_STRUCT) {
      outcome.error.read(from);
      outcome.failed = true;
    } else {
      from->skip(type);
    }
    from->readFieldEnd();
  }
  from->readStructEnd();
  from->readMessageEnd();
  return outcome;
}

}  // namespace

ErrorInfo to_info(const api::KvError& error) {
  return {.code = static_cast<Code>(error.code),
          .message = error.message,
          .applied = static_cast<Applied>(error.applied),
          .retryable = error.retryable,
          .retry_after = milliseconds(std::max(error.retry_after_ms, 0)),
          .master = error.master};
}

Connection::Connection(const Address& address, std::size_t address_index, const std::string& client_name,
                       Deadline deadline)
    : socket_(address, deadline),
      peer_(address.text),
      address_index_(address_index),
      out_(std::make_shared<Memory>()),
      out_protocol_(out_) {
  try {
    hello(client_name, deadline);
  } catch (Failure& failure) {
    failure.info.applied = Applied::kNo;
    throw;
  }
}

void Connection::hello(const std::string& client_name, Deadline deadline) {
  api::Context context;
  context.__set_budget_ms(static_cast<std::int32_t>(
      std::max<std::int64_t>(1, std::chrono::floor<milliseconds>(deadline - Clock::now()).count())));
  api::HelloRequest request;
  request.__set_client_name(client_name);
  request.__set_api_version(kApiVersion);
  api::HelloReply reply;
  call("hello", context, request, &reply, deadline);
  hello_time_ = Clock::now();
  greet_again_ = hello_time_ + kHelloAge;
  hello_now_ms_ = reply.now_ms;
  const auto has = [&](const char* feature) {
    return std::find(reply.features.begin(), reply.features.end(), feature) != reply.features.end();
  };
  has_clocks_ = has("clocks");
  remembers_writes_ = has("idempotent_writes") && reply.now_ms > 0;
  info_ = {.server_version = std::move(reply.server_version),
           .api_version = reply.api_version,
           .node_id = std::move(reply.node_id),
           .cluster_id = std::move(reply.cluster_id),
           .features = std::move(reply.features),
           .max_key_bytes = reply.limits.max_key_bytes,
           .max_value_bytes = reply.limits.max_value_bytes,
           .max_batch_ops = reply.limits.max_batch_ops,
           .max_batch_bytes = reply.limits.max_batch_bytes,
           .max_multi_get_keys = reply.limits.max_multi_get_keys,
           .max_frame_bytes = reply.limits.max_frame_bytes,
           .max_scan_rows = reply.limits.max_scan_rows,
           .max_scan_bytes = reply.limits.max_scan_bytes};
  if (info_.max_frame_bytes > 0) {
    max_request_bytes_ = static_cast<std::size_t>(info_.max_frame_bytes);
    max_reply_bytes_ = std::max(max_reply_bytes_, max_request_bytes_);
  }
}

std::int64_t Connection::server_now_ms() const {
  return hello_now_ms_ + std::chrono::floor<milliseconds>(Clock::now() - hello_time_).count();
}

std::int32_t Connection::begin_request(const char* method) {
  if (out_->getBufferSize() > kIdleBufferBytes) {
    out_->resetBuffer(static_cast<std::uint32_t>(Memory::defaultSize));
  } else {
    out_->resetBuffer();
  }
  static constexpr std::uint8_t kNoLength[kHeaderBytes] = {};
  out_->write(kNoLength, kHeaderBytes);
  last_sequence_ = last_sequence_ == INT32_MAX ? 1 : last_sequence_ + 1;
  out_protocol_.writeMessageBegin(method, T_CALL, last_sequence_);
  return last_sequence_;
}

std::string_view Connection::exchange(Deadline deadline) {
  std::uint8_t* bytes = nullptr;
  std::uint32_t size = 0;
  out_->getBuffer(&bytes, &size);
  const std::uint32_t length = size - kHeaderBytes;
  if (max_request_bytes_ > 0 && length > max_request_bytes_) {
    throw Failure{{.code = Code::kTooLarge,
                   .message = "the request has " + std::to_string(length) + " bytes; the limit of " + peer_ + " is " +
                              std::to_string(max_request_bytes_) + " (max_frame_bytes)",
                   .applied = Applied::kNo}};
  }
  for (std::size_t i = 0; i < kHeaderBytes; ++i) bytes[i] = static_cast<std::uint8_t>(length >> (24 - 8 * i));
  socket_.write_all({reinterpret_cast<const char*>(bytes), size}, deadline);

  if (in_.capacity() > kIdleBufferBytes) std::string().swap(in_);
  in_.resize(std::max<std::size_t>(in_.capacity(), 8192));
  std::size_t filled = 0, wanted = kHeaderBytes;
  while (filled < wanted) {
    filled += socket_.read_some(in_.data() + filled, in_.size() - filled, deadline);
    if (wanted == kHeaderBytes && filled >= kHeaderBytes) {
      wanted += frame_length();
      if (in_.size() < wanted) in_.resize(wanted);
    }
  }
  if (filled > wanted) throw protocol_failure(peer_, "there are bytes after its end");
  return std::string_view(in_).substr(kHeaderBytes, wanted - kHeaderBytes);
}

std::size_t Connection::frame_length() const {
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < kHeaderBytes; ++i) length = length << 8 | static_cast<std::uint8_t>(in_[i]);
  if (length == 0 || length > max_reply_bytes_) {
    if (in_.compare(0, kHeaderBytes, "HTTP") == 0) {
      throw protocol_failure(peer_, "it answers HTTP, so it is a port for monitoring (--http_port), not for clients");
    }
    throw protocol_failure(peer_, "its frame claims to have " + std::to_string(length) + " bytes");
  }
  return length;
}

void Connection::read_reply(std::string_view frame, const char* method, std::int32_t sequence,
                            const std::function<void(Protocol*)>& read_success) {
  Outcome outcome;
  try {
    // Thrift's default limits are below what a server may allow. Nothing in a frame is longer than the frame, so a
    // length that lies does not make Thrift allocate more.
    const int size = static_cast<int>(frame.size());
    const auto config = std::make_shared<TConfiguration>(size, size);
    auto* bytes = reinterpret_cast<std::uint8_t*>(const_cast<char*>(frame.data()));
    const auto memory = std::make_shared<Memory>(bytes, static_cast<std::uint32_t>(size), Memory::OBSERVE, config);
    Protocol from(memory, size, size, true, true);
    std::string name;
    TMessageType type = T_CALL;
    std::int32_t got = 0;
    from.readMessageBegin(name, type, got);
    if (got != sequence) {
      throw protocol_failure(peer_,
                             "it has sequence id " + std::to_string(got) + " instead of " + std::to_string(sequence));
    }
    if (type == T_EXCEPTION && (name == method || name.empty())) {
      TApplicationException error;
      error.read(&from);
      throw application_failure(peer_, method, error);
    }
    if (name != method || type != T_REPLY) {
      throw protocol_failure(peer_, "it answers " + name.substr(0, 64) + " instead of " + method);
    }
    outcome = read_result(&from, read_success);
    if (memory->available_read() > 0) throw protocol_failure(peer_, "there are bytes after its end");
  } catch (const apache::thrift::TException& error) {
    throw protocol_failure(peer_, std::string("it cannot be decoded: ") + error.what());
  } catch (const std::length_error&) {
    throw protocol_failure(peer_, "it cannot be decoded");
  } catch (const std::bad_alloc&) {
    throw protocol_failure(peer_, "it does not fit into memory");
  }
  if (outcome.failed) {
    ServerFailure failure;
    failure.info = to_info(outcome.error);
    failure.context = std::move(outcome.error.context);
    throw failure;
  }
  if (!outcome.success) throw protocol_failure(peer_, "it has no result");
}

}  // namespace pando::client::detail
