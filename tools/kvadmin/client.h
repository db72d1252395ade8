// Client: one blocking connection to a server, with retries.
//
// Calls are retried with growing pauses while the error says that it helps (or, for calls that may be repeated, when
// the connection broke) and the budget lasts. After a transport error the connection is thrown away. A client installs
// Interrupts: Ctrl-C ends a call (and the waits between repetitions) with kAborted, and later calls at once.
//
// Threads: one.
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
  int64_t timeout_ms = 10'000;             // budget of a call, retries included
};

// The server's exception as a Status: BAD_REQUEST and TOO_LARGE are the caller's fault, CORRUPT is corruption.
Status FromKvError(const api::KvError& error);

class Client {
 public:
  enum class Repeat { kSafe, kUnsafe };  // kUnsafe: doing it twice differs from once (increment, conditions)

  explicit Client(Target target);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Runs `call(kv, context)`; what it throws becomes the Status.
  using KvCall = std::function<void(api::KvClient&, const api::Context&)>;
  Status Kv(Repeat repeat, const KvCall& call);
  using AdminCall = std::function<void(api::AdminClient&, const api::Context&)>;
  Status Admin(Repeat repeat, const AdminCall& call);

  // For pipelining: one attempt, no retries. After a transport error (kUnavailable, kDeadline) the connection is gone
  // and the next use opens another.
  Status Once(const KvCall& call);
  const Target& target() const { return target_; }
  // For the requests of a cleanup, which must not take long.
  void LimitBudget(int64_t most_ms) { target_.timeout_ms = std::min(target_.timeout_ms, most_ms); }

 private:
  struct Wire;
  using Clock = std::chrono::steady_clock;
  struct Failure {
    Status status;
    bool retryable = false;   // the server said so, and that nothing was applied
    bool broken = false;      // the connection; the outcome is unknown
    bool never_sent = false;  // it could not even connect
    int64_t pause_ms = 0;     // the server's advice
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
