// Generator: the load generator. One event loop keeps `connections` connections busy and times
// every answer. The same loop drives all systems of a comparison; only the Protocol differs.
//
// Threads: one reactor.
//
// Invariants
//   G1  A request allocates nothing. There is at most one Send for each connection and turn.
//   G2  Every answer is parsed. A wrong answer fails the run. An error answer is counted, and the
//       text of the first one is kept.
//
// Closed loop: each connection keeps up to `depth` requests in progress. By default
// (Pipelining::kBatch) it behaves like a client pipeline: it sends `depth` requests, waits for all
// answers, and then sends the next ones. With kWindow it sends a new request for each answer. Open
// loop (rate > 0): requests are due at fixed times, whatever the server does. Latency counts from
// the time a request was due, so a stall is charged to every request that it delayed.
//
// Times come from the reactor's clock, which is read once a turn. A request has the time of the
// turn that created it, and an answer the time of the turn that received it.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/metrics/histogram.h"
#include "tools/kvbench/protocol.h"
#include "tools/kvbench/workload.h"

namespace pando::bench {

enum class Pipelining : uint8_t { kBatch, kWindow };

struct GeneratorOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  uint32_t connections = 50;
  uint32_t depth = 1;
  Pipelining pipelining = Pipelining::kBatch;
  double warmup_s = 1;
  double seconds = 10;                       // of measurement, after the warm-up
  uint64_t ops = 0;                          // > 0: send exactly this many requests, without a warm-up
  double rate = 0;                           // > 0: open loop, requests per second over all connections
  uint32_t check_every = 64;                 // compare the contents of one answer out of this many
  bool may_miss = false;                     // a get may find nothing (inserts run at the same time)
  const std::atomic<bool>* until = nullptr;  // the measurement ends earlier once this is set
  uint64_t value_seed = 1;                   // seed of the first put's value; each later put adds one
};

struct Tally {
  uint64_t ops = 0, rows = 0, not_found = 0, errors = 0, slow_replies = 0, checked = 0;
  double seconds = 0;
  double generator_cpu_s = 0;
  std::string first_error;
  Histogram latency_ns;
};

// Called at the start and the end of the measured window, to read the server's CPU time.
struct WindowObserver {
  virtual void OnWindowBegin() = 0;
  virtual void OnWindowEnd() = 0;

 protected:
  ~WindowObserver() = default;
};

class Generator final : private TurnHook {
 public:
  Generator(Reactor& reactor, const Protocol& protocol, RecordShape shape, GeneratorOptions options, OpStream ops,
            WindowObserver* observer);
  ~Generator();

  // Connects, warms up, measures, waits for the last answers, and disconnects. Call it once.
  // `tally` is complete only when the result is OK.
  Task<Status> Run(Tally* tally);

 private:
  class Client;
  struct Pending {
    Nanos start_ns = 0;
    uint64_t index = 0;
    OpKind kind = OpKind::kGet;  // what was sent; a read-modify-write starts as a get
    bool then_put = false;
  };
  enum class Phase : uint8_t { kConnecting, kWarmup, kMeasuring, kDraining, kClosing };
  struct PhaseTimer : Timer {
    Generator* generator = nullptr;
  };

  Task<Status> ConnectAll();
  void Start();
  void OnTurnEnd() override;
  void OnPhaseTimer();
  void OnRateTimer();
  void BeginWindow();
  void EndWindow();
  void Drain();
  void Fail(Status status);
  void CloseAll();
  bool MayIssue() const;
  void Issue(Client* client, Nanos start_ns);
  void Append(Client* client, const Pending& pending, uint32_t rows);
  void OnReply(Client* client, std::string_view frame);
  void CheckContents(const Pending& pending, const Reply& reply, std::string_view frame);
  void Refill(Client* client);
  void DispatchDue();
  void OnClientClosed(const Status& reason);

  Reactor& reactor_;
  const Protocol& protocol_;
  const RecordShape shape_;
  const GeneratorOptions options_;
  OpStream ops_;
  WindowObserver* observer_;
  Tally* tally_ = nullptr;

  Phase phase_ = Phase::kConnecting;
  Status failure_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<Client*> dirty_;
  uint64_t open_clients_ = 0;
  uint64_t in_flight_ = 0;
  uint64_t issued_ = 0;
  uint64_t replies_ = 0;
  uint64_t put_seed_;
  bool recording_ = false;
  Nanos window_begin_ns_ = 0;
  double window_begin_cpu_s_ = 0;

  PhaseTimer phase_timer_;
  PhaseTimer rate_timer_;
  Nanos rate_start_ns_ = 0;
  uint64_t rate_sent_ = 0;
  std::deque<Client*> free_slots_;  // open loop: one entry for each request that a client can take
  WaitQueue finished_;
  std::string key_;
};

}  // namespace pando::bench
