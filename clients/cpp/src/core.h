// What a Client and all that it has made share: connections, lanes, the retries of calls, and the renewal of snapshots.
//
// Invariants:
// - A write has one name (client id, sequence, first_sent_ms) for all its tries, and its lane no other write meanwhile.
// - A lane whose write ended with an unknown outcome is never used again.
// - What a call reports as not applied was not applied by any of its tries.
//
// Threads: any. The renewal thread is started by the first snapshot and ended by close(). It holds no reference to the
// Core, which joins it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pool.h"

namespace pando::client::detail {

// A stream of writes that the server tells apart by their sequence.
struct Lane {
  std::string client_id;
  std::int64_t sequence = 0;
};

class Lanes {
 public:
  Lane take();
  void give_back(Lane lane);

 private:
  std::mutex mutex_;
  std::vector<Lane> free_;  // the one that was used last is the last, so that few are in use
};

struct SnapshotState {
  std::string token;
  std::int64_t version = 0;
  milliseconds ttl{0};
  bool owned = true;  // it is released when its Snapshot is destroyed
  std::atomic<std::int64_t> expires_at_ms{0};
  std::atomic<bool> released{false};
};

struct SessionState {
  std::mutex mutex;
  std::string token;
};

class Core;

// What the calls of a Client, Session or Snapshot have in common.
struct Scope {
  std::shared_ptr<Core> core;
  std::shared_ptr<SessionState> session;    // or null
  std::shared_ptr<SnapshotState> snapshot;  // or null
};

enum class CallKind {
  kRead,
  kNamedWrite,
  kRepeatableWrite,  // it does no harm when it is repeated, and has no name
};

struct CallSpec {
  CallKind kind = CallKind::kRead;
  std::int32_t level = 0;
  milliseconds max_staleness{0};
  std::optional<milliseconds> timeout{};
  // Of a watch: its own connection, opened when it has none; and whether it was stopped.
  Pool::Lease* own = nullptr;
  const std::atomic<bool>* stopped = nullptr;
  // Set by the attempt: the reply says that a part of the write has an unknown outcome, so its lane is not used again.
  bool* unknown_inside = nullptr;
};

class Core {
 public:
  // One try: makes the request, with what the context says of it. Throws Failure.
  using Attempt = std::function<void(Connection& connection, const api::Context& context, Deadline deadline)>;

  Core(const std::vector<Address>& addresses, const Options& options);
  ~Core();

  // Repeats the attempt until it succeeds or the time is over. Throws Error.
  void run(const Scope& scope, const CallSpec& spec, const Attempt& attempt);

  template <class Reply, class Request>
  Reply call(const Scope& scope, const CallSpec& spec, const char* method, const Request& request) {
    Reply reply;
    run(scope, spec, [&](Connection& connection, const api::Context& context, Deadline deadline) {
      reply = Reply();
      connection.call(method, context, request, &reply, deadline);
      learn(scope, reply.context);
    });
    return reply;
  }

  // Remembers what a reply says of clocks and sessions.
  void learn(const Scope& scope, const api::ReplyContext& context);
  // Ends waits between tries, so that they notice that they were stopped.
  void wake();

  void renew_in_background(std::weak_ptr<SnapshotState> snapshot);
  void close();

  const Options& options() const { return options_; }
  Pool& pool() { return pool_; }

 private:
  struct Renewal {
    Clock::time_point due;
    std::weak_ptr<SnapshotState> snapshot;
  };
  struct Progress;

  bool stopped(const CallSpec& spec) const { return closed_ || (spec.stopped != nullptr && *spec.stopped); }
  void try_once(const Scope& scope, const CallSpec& spec, const Attempt& attempt, Progress* progress);
  // After a server has said that it cannot serve the request: whom to ask next.
  void refer(const CallSpec& spec, const ErrorInfo& info, Pool::Lease* lease, Progress* progress);
  void name_write(const CallSpec& spec, const Connection& connection, Progress* progress);
  api::Context context_for(const Scope& scope, const CallSpec& spec, const Connection& connection,
                           const Progress& progress);
  // Returns when it is time for the next try. Throws Error if there is none.
  void wait_after(const CallSpec& spec, Progress* progress, Failure failure);
  [[noreturn]] void give_up(const CallSpec& spec, Progress* progress, ErrorInfo last);
  [[noreturn]] void out_of_time(const CallSpec& spec, Progress* progress, std::optional<ErrorInfo> last);
  milliseconds backoff(int tries, milliseconds retry_after);
  void renew_loop();
  Clock::time_point renew_one(SnapshotState& snapshot);

  const Options options_;
  Pool pool_;
  Lanes lanes_;
  std::atomic<std::int64_t> hlc_{0};
  std::atomic<bool> closed_{false};

  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::mt19937_64 random_{std::random_device{}()};
  std::vector<Renewal> renewals_;
  std::thread renewer_;
};

}  // namespace pando::client::detail
