// Client: one blocking connection to a server, with retries.
//
// Threads: one.
//
// A call is retried, with growing pauses, as long as its budget lasts: when the server says that a
// retry helps, and, if the call may be repeated, when the connection broke. After a transport error
// the client drops the connection. A client installs Interrupts: Ctrl-C ends the current call, or
// the pause before a retry, with kAborted. Later calls fail with kAborted at once.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Kv.h"
#include "src/base/result.h"

namespace pando::admin {

struct Target {
  std::string address = "127.0.0.1:7420";  // host:port, with brackets around IPv6
  int64_t timeout_ms = 10'000;             // budget of a call, including retries
};

// Converts the server's exception to a Status. BAD_REQUEST, TOO_LARGE and BAD_CURSOR become
// kInvalidArgument, CORRUPT becomes kCorruption, and unknown codes become kUnavailable.
Status FromKvError(const api::KvError& error);

class Client {
 public:
  // kUnsafe: applying the call twice differs from applying it once (increment, conditions).
  enum class Repeat { kSafe, kUnsafe };

  explicit Client(Target target);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Runs `call(kv, context)` and converts the exceptions that it throws to a Status.
  using KvCall = std::function<void(api::KvClient&, const api::Context&)>;
  Status Kv(Repeat repeat, const KvCall& call);
  using AdminCall = std::function<void(api::AdminClient&, const api::Context&)>;
  Status Admin(Repeat repeat, const AdminCall& call);

  // For pipelining: one attempt without retries. After a transport error (kUnavailable, kDeadline)
  // the connection is dropped, and the next call opens a new one.
  Status Once(const KvCall& call);
  const Target& target() const { return target_; }
  // Shortens the budget of later calls. For cleanup, which must not take long.
  void LimitBudget(int64_t most_ms) { target_.timeout_ms = std::min(target_.timeout_ms, most_ms); }

 private:
  struct Wire;
  using Clock = std::chrono::steady_clock;
  struct Failure {
    Status status;
    bool retryable = false;   // the server says so, and that it applied nothing
    bool broken = false;      // the connection broke, and the outcome is unknown
    bool never_sent = false;  // the client could not connect
    int64_t pause_ms = 0;     // the pause that the server advises
  };
  Failure Attempt(const std::function<void(Wire&, const api::Context&)>& call, int64_t budget_ms);
  Status Retry(Repeat repeat, const std::function<void(Wire&, const api::Context&)>& call);
  Status Resolve();
  void Open(int64_t budget_ms);

  Target target_;
  std::string host_;
  int port_ = 0;
  std::unique_ptr<Wire> wire_;
};

}  // namespace pando::admin
