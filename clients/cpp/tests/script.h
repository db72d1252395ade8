// What the tests of the client have in common: a server that follows a script, and its usual answers.
//
// Threads: a Script may be used by several.
#pragma once

#include <gtest/gtest.h>
#include <pando/client.h>

#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "fake_server.h"

namespace pando::client::testing {

inline api::GetReply found(const std::string& value) {
  api::GetReply reply;
  reply.record.__set_found(true);
  reply.record.__set_value(value);
  reply.record.__set_version(7);
  reply.__isset.record = true;
  return reply;
}

inline api::WriteResult applied(std::int64_t version = 1) {
  api::WriteResult result;
  result.__set_applied(true);
  result.__set_version(version);
  return result;
}

// Answers a request that is not hello with the next of these, and with the last one from then on.
class Script {
 public:
  using Step = std::function<std::optional<Answer>(const Request&)>;
  Script(std::initializer_list<Step> steps) : steps_(steps) {}
  std::optional<Answer> operator()(const Request& request) {
    if (request.method == "hello") return std::nullopt;
    const std::lock_guard lock(mutex_);
    const Step step = steps_.front();
    if (steps_.size() > 1) steps_.pop_front();
    return step(request);
  }

 private:
  std::mutex mutex_;
  std::deque<Step> steps_;
};

inline FakeServer::Handler scripted(std::initializer_list<Script::Step> steps) {
  return [script = std::make_shared<Script>(steps)](const Request& request) { return (*script)(request); };
}

inline std::optional<Answer> cut(const Request&) { return std::nullopt; }
inline std::optional<Answer> answer_get(const Request& request) { return reply(request, found("x")); }
inline std::optional<Answer> answer_write(const Request& request) { return reply(request, applied()); }

inline Client make_client(const FakeServer& server, Options options = {}) {
  return Client({server.address()}, options);
}

// The error that a call throws.
template <class E, class Call>
E thrown(const Call& call) {
  try {
    call();
  } catch (const E& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return E(ErrorInfo{});
}

}  // namespace pando::client::testing
