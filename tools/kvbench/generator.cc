#include "tools/kvbench/generator.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "tools/kvbench/data.h"
#include "tools/kvbench/reply_cutter.h"

namespace pando::bench {

namespace {

constexpr Nanos kConnectTimeout = 10 * kSecond;
constexpr Nanos kDrainTimeout = 30 * kSecond;  // for the last answers; then the run fails

Nanos ToNanos(double seconds) { return static_cast<Nanos>(seconds * static_cast<double>(kSecond)); }

double ThreadCpuSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

}  // namespace

class Generator::Client final : public ConnectionHandler {
 public:
  Client(Generator* generator, uint32_t depth) : generator_(generator), cutter_(generator->protocol_), ring_(depth) {}

  void OnData(std::span<const char> bytes) override {
    if (generator_->phase_ == Phase::kClosing) return;
    Status status = cutter_.Feed(bytes, [this](std::string_view frame) { generator_->OnReply(this, frame); });
    if (!status.ok()) generator_->Fail(std::move(status));
  }
  void OnSent() override {}
  void OnClosed(const Status& reason) override {
    connection = nullptr;
    generator_->OnClientClosed(reason);
  }

  void Push(const Pending& pending) {
    CHECK_LT(count_, ring_.size());
    ring_[(head_ + count_++) % ring_.size()] = pending;
  }
  Pending Pop() {
    Pending front = ring_[head_];
    head_ = (head_ + 1) % ring_.size();
    --count_;
    return front;
  }
  size_t in_flight() const { return count_; }

  Connection* connection = nullptr;
  std::string out;
  bool dirty = false;

 private:
  Generator* generator_;
  ReplyCutter cutter_;
  std::vector<Pending> ring_;
  size_t head_ = 0, count_ = 0;
};

Generator::Generator(Reactor& reactor, const Protocol& protocol, RecordShape shape, GeneratorOptions options,
                     OpStream ops, WindowObserver* observer)
    : reactor_(reactor),
      protocol_(protocol),
      shape_(shape),
      options_(std::move(options)),
      ops_(std::move(ops)),
      observer_(observer),
      put_seed_(options_.value_seed),
      finished_(reactor),
      key_(shape.key_bytes, '\0') {
  phase_timer_.generator = rate_timer_.generator = this;
  phase_timer_.on_fire = [](Timer* t) { static_cast<PhaseTimer*>(t)->generator->OnPhaseTimer(); };
  rate_timer_.on_fire = [](Timer* t) { static_cast<PhaseTimer*>(t)->generator->OnRateTimer(); };
}

Generator::~Generator() = default;

Task<Status> Generator::Run(Tally* tally) {
  tally_ = tally;
  // Suspends for each connection in turn. No request is sent before all are open.
  Status connected = co_await ConnectAll();
  if (connected.ok()) {
    Start();
    while (phase_ != Phase::kClosing) co_await finished_.Wait();
  } else {
    failure_ = std::move(connected);
    CloseAll();
  }
  // Connections still refer to their clients until OnClosed, so wait for it.
  while (open_clients_ > 0) co_await finished_.Wait();
  reactor_.CancelTimer(&phase_timer_);
  reactor_.CancelTimer(&rate_timer_);
  co_return failure_;
}

Task<Status> Generator::ConnectAll() {
  for (uint32_t i = 0; i < options_.connections; ++i) {
    Result<Connection*> connection = co_await reactor_.Connect(options_.host, options_.port, kConnectTimeout);
    if (!connection.ok()) co_return connection.TakeStatus();
    clients_.push_back(std::make_unique<Client>(this, options_.depth));
    clients_.back()->connection = *connection;
    (*connection)->SetHandler(clients_.back().get());
    ++open_clients_;
  }
  dirty_.reserve(clients_.size());
  co_return Status();
}

void Generator::Start() {
  Nanos now = reactor_.NowNs();
  if (options_.ops == 0 && options_.warmup_s > 0) {
    phase_ = Phase::kWarmup;
    reactor_.ArmTimer(&phase_timer_, now + ToNanos(options_.warmup_s));
  } else {
    BeginWindow();
  }
  if (options_.rate > 0) {
    rate_start_ns_ = now;
    for (uint32_t i = 0; i < options_.depth; ++i) {
      for (auto& client : clients_) free_slots_.push_back(client.get());
    }
    DispatchDue();
  } else {
    for (auto& client : clients_) Refill(client.get());
  }
}

void Generator::BeginWindow() {
  phase_ = Phase::kMeasuring;
  recording_ = true;
  window_begin_ns_ = reactor_.NowNs();
  window_begin_cpu_s_ = ThreadCpuSeconds();
  if (observer_) observer_->OnWindowBegin();
  if (options_.ops == 0) reactor_.ArmTimer(&phase_timer_, window_begin_ns_ + ToNanos(options_.seconds));
}

void Generator::EndWindow() {
  recording_ = false;
  tally_->seconds = static_cast<double>(reactor_.NowNs() - window_begin_ns_) * 1e-9;
  tally_->generator_cpu_s = ThreadCpuSeconds() - window_begin_cpu_s_;
  if (observer_) observer_->OnWindowEnd();
}

void Generator::OnPhaseTimer() {
  switch (phase_) {
    case Phase::kWarmup: BeginWindow(); break;
    case Phase::kMeasuring:
      EndWindow();
      Drain();
      break;
    case Phase::kDraining:
      Fail(Error(Code::kDeadline, "the server left {} requests without an answer for {} s after the run", in_flight_,
                 kDrainTimeout / kSecond));
      break;
    case Phase::kConnecting:
    case Phase::kClosing: break;
  }
}

void Generator::Drain() {
  phase_ = Phase::kDraining;
  reactor_.ArmTimer(&phase_timer_, reactor_.NowNs() + kDrainTimeout);
  if (in_flight_ == 0) CloseAll();
}

void Generator::Fail(Status status) {
  if (phase_ == Phase::kClosing) return;
  failure_ = std::move(status);
  CloseAll();
}

void Generator::CloseAll() {
  phase_ = Phase::kClosing;
  for (auto& client : clients_) {
    if (client->connection) client->connection->Close(/*now=*/true);
  }
  finished_.NotifyAll();
}

void Generator::OnClientClosed(const Status& reason) {
  --open_clients_;
  if (phase_ != Phase::kClosing) {
    Fail(Error(Code::kUnavailable, "the server closed a connection: {}", reason.message()));
  }
  finished_.NotifyAll();
}

bool Generator::MayIssue() const {
  if (phase_ != Phase::kWarmup && phase_ != Phase::kMeasuring) return false;
  return options_.ops == 0 || issued_ < options_.ops;
}

void Generator::Refill(Client* client) {
  if (options_.rate > 0) {
    free_slots_.push_back(client);
    DispatchDue();
    return;
  }
  if (options_.pipelining == Pipelining::kBatch && client->in_flight() > 0) return;
  while (client->in_flight() < options_.depth && MayIssue()) Issue(client, reactor_.NowNs());
}

// Open loop: sends the requests that are due on free connections, and arms the timer for the next
// one. While no connection is free the schedule continues. The latency of delayed requests counts
// from when they were due.
void Generator::DispatchDue() {
  const Nanos now = reactor_.NowNs();
  while (!free_slots_.empty() && MayIssue()) {
    Nanos due = rate_start_ns_ + static_cast<Nanos>(static_cast<double>(rate_sent_) * 1e9 / options_.rate);
    if (due > now) {
      if (!rate_timer_.armed) reactor_.ArmTimer(&rate_timer_, due);
      return;
    }
    ++rate_sent_;
    Client* client = free_slots_.front();
    free_slots_.pop_front();
    Issue(client, due);
  }
}

void Generator::OnRateTimer() { DispatchDue(); }

void Generator::Issue(Client* client, Nanos start_ns) {
  Op op = ops_.Next();
  Pending pending{start_ns, op.index, op.kind, false};
  if (op.kind == OpKind::kReadModifyWrite) {
    pending.kind = OpKind::kGet;
    pending.then_put = true;
  }
  ++issued_;
  ++in_flight_;
  Append(client, pending, op.rows);
}

void Generator::Append(Client* client, const Pending& pending, uint32_t rows) {
  WriteKey(pending.index, shape_.key_bytes, key_.data());
  switch (pending.kind) {
    case OpKind::kGet: protocol_.AppendGet(key_, &client->out); break;
    case OpKind::kScan: protocol_.AppendScan(key_, rows, &client->out); break;
    default: {
      char* value = protocol_.AppendPut(key_, &client->out);
      FillValue(key_, put_seed_++, value, shape_.value_bytes, shape_.compressible_percent);
      protocol_.EncodeValue(value);
    }
  }
  client->Push(pending);
  if (client->dirty) return;
  client->dirty = true;
  dirty_.push_back(client);
  if (!armed) reactor_.ArmTurnHook(this);
}

void Generator::OnTurnEnd() {
  for (Client* client : dirty_) {
    client->dirty = false;
    if (client->connection) client->connection->Send(&client->out);
  }
  dirty_.clear();
}

void Generator::OnReply(Client* client, std::string_view frame) {
  if (phase_ == Phase::kClosing) return;
  if (client->in_flight() == 0) {
    Fail(Status(Code::kCorruption, "the server sent an answer without a request"));
    return;
  }
  Pending pending = client->Pop();
  Reply reply = protocol_.Parse(pending.kind, frame);
  if (reply.outcome == Outcome::kError) {
    if (tally_->errors++ == 0) tally_->first_error = protocol_.Describe(pending.kind, frame);
  } else if (reply.outcome == Outcome::kNotFound) {
    ++tally_->not_found;
    if (!options_.may_miss) {
      Fail(Error(Code::kNotFound, "the server has no record {}, which was loaded", pending.index));
      return;
    }
  } else if (++replies_ % options_.check_every == 0) {
    CheckContents(pending, reply, frame);
  }
  if (reply.slow) ++tally_->slow_replies;

  if (pending.then_put && reply.outcome == Outcome::kOk) {
    Append(client, Pending{pending.start_ns, pending.index, OpKind::kPut, false}, 0);
    return;
  }
  --in_flight_;
  if (recording_) {
    ++tally_->ops;
    tally_->rows += reply.rows;
    tally_->latency_ns.Record(static_cast<uint64_t>(std::max<Nanos>(0, reactor_.NowNs() - pending.start_ns)));
  }
  if (phase_ == Phase::kMeasuring && options_.until && *options_.until) {
    EndWindow();
    Drain();
  }
  Refill(client);
  if (in_flight_ > 0) return;
  if (phase_ == Phase::kMeasuring && options_.ops > 0 && issued_ == options_.ops) {
    EndWindow();
    Drain();
  } else if (phase_ == Phase::kDraining) {
    CloseAll();
  }
}

void Generator::CheckContents(const Pending& pending, const Reply& reply, std::string_view frame) {
  ++tally_->checked;
  WriteKey(pending.index, shape_.key_bytes, key_.data());
  if (pending.kind == OpKind::kGet && !CheckValue(key_, reply.value, shape_.value_bytes, shape_.compressible_percent)) {
    Fail(Error(Code::kCorruption, "the server returned a value for key \"{}\" that was not stored there", key_));
  } else if (pending.kind == OpKind::kScan) {
    Status status = protocol_.CheckScan(frame, key_);
    if (!status.ok()) Fail(std::move(status));
  }
}

}  // namespace pando::bench
