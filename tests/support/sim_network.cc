#include "tests/support/sim_network.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/io/socket_address.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

constexpr size_t kMaxSegmentBytes = 64u << 10;
constexpr Nanos kRetransmitNs = 20 * kMillisecond;

bool IsLoopback(const std::string& host) { return host == "127.0.0.1" || host == "localhost" || host == "::1"; }
bool IsAny(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

}  // namespace

// A connect in progress; it lives in the coroutine frame of Connect.
struct SimNetwork::ConnectOp : Timer {
  SimNetwork* network = nullptr;
  SimReactor* reactor = nullptr;
  uint64_t id = 0;
  Nanos timeout_ns = 0;
  std::string host;
  uint16_t port = 0;
  int error = 0;
  bool timed_out = false;
  uint64_t connection = 0;
  std::coroutine_handle<> waiter;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    id = network->next_id_++;
    network->connecting_[id] = this;
    on_fire = [](Timer* t) {
      auto* op = static_cast<ConnectOp*>(t);
      op->timed_out = true;
      op->network->connecting_.erase(op->id);
      op->waiter.resume();
    };
    SimKernel* kernel = network->kernel_;
    reactor->ArmTimer(this, reactor->NowNs() + timeout_ns);
    kernel->At(reactor->ActsAtNs() + network->Latency(reactor->machine().host(), host), reactor->boot_,
               [n = network, i = id, r = reactor, to = host, p = port] { n->Attempt(i, r, to, p); });
  }
  void await_resume() const noexcept {}
};

SimNetwork::~SimNetwork() = default;

void SimConnection::SetHandler(ConnectionHandler* handler) {
  handler_ = handler;
  if (network_) network_->MarkDeliver(this);
}

void SimConnection::Send(std::string* bytes) {
  if (!network_ || closing_ || told_ || bytes->empty()) {
    bytes->clear();
    return;
  }
  if (outgoing_.empty()) {
    outgoing_.swap(*bytes);
  } else {
    outgoing_.append(*bytes);
  }
  bytes->clear();
  send_pending_ = true;
  network_->MarkFlush(this);
}

void SimConnection::ResumeReceive() {
  if (!paused_) return;
  paused_ = false;
  if (network_) network_->MarkDeliver(this);
}

void SimConnection::Close(bool now) {
  if (!network_ || told_) return;
  closing_ = true;
  if (now) {
    outgoing_.clear();
    sent_ = 0;
  }
  network_->MarkFlush(this);
}

// -- making connections

Result<uint16_t> SimNetwork::Listen(SimReactor* reactor, const ListenOptions& options, AcceptHandler* handler) {
  ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::Parse(options.host, options.port));
  SimMachine& machine = reactor->machine();
  const uint16_t port = options.port != 0 ? options.port : machine.next_port_++;
  for (const auto& other : machine.reactors_) {
    for (const auto& listener : other->network_.listeners) {
      if (listener.port != port || (options.reuse_port && other.get() != reactor)) continue;
      return Error(Code::kAlreadyExists,
                   "cannot listen on {}: another process uses this port; stop it or choose another port",
                   address.ToString());
    }
  }
  ConnectionBudget* budget = options.budgets ? &options.budgets->of(options.kind) : nullptr;
  reactor->network_.listeners.push_back({options.host, port, handler, options.kind, budget});
  return port;
}

Task<Result<Connection*>> SimNetwork::Connect(SimReactor* reactor, std::string host, uint16_t port, Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::Parse(host, port));
  ConnectOp op;
  op.network = this;
  op.reactor = reactor;
  op.timeout_ns = timeout_ns;
  op.host = IsLoopback(host) ? reactor->machine().host() : host;
  op.port = port;
  co_await op;
  if (op.timed_out) {
    co_return Error(Code::kDeadline, "{} did not answer within {} ms", address.ToString(), timeout_ns / kMillisecond);
  }
  SimConnection* connection = op.error == 0 ? Find(op.connection) : nullptr;
  if (!connection) {
    co_return Error(Code::kUnavailable, "connect to {}: {} (errno {}); is the node running there?", address.ToString(),
                    strerror(op.error ? op.error : ECONNRESET), op.error);
  }
  co_return static_cast<Connection*>(connection);
}

// The SYN arrives.
void SimNetwork::Attempt(uint64_t connect_id, SimReactor* origin, std::string host, uint16_t port) {
  const std::string& from = origin->machine().host();
  SimMachine* target = kernel_->machine(host);
  // Without an answer, the connect times out.
  if (!target || !target->answers_ || IsCut(from, host) || IsCut(host, from)) return;
  struct Choice {
    SimReactor* reactor;
    AcceptHandler* handler;
    ListenerKind kind;
    ConnectionBudget* budget;
  };
  std::vector<Choice> choices;
  for (const auto& reactor : target->reactors_) {
    for (const auto& l : reactor->network_.listeners) {
      if (l.port != port) continue;
      if (!IsAny(l.host) && l.host != host && !(IsLoopback(l.host) && from == host)) continue;
      choices.push_back({reactor.get(), l.handler, l.kind, l.budget});
    }
  }
  uint64_t origin_end_id = 0;
  if (!choices.empty()) {
    const Choice& choice = choices[kernel_->random().Below(choices.size())];
    // The simulated listener has no backlog: without a place in the budget, the SYN gets no answer.
    if (choice.budget && !choice.budget->TryTake()) return;
    SimConnection* origin_end = NewEnd(origin, from, host);
    SimConnection* target_end = NewEnd(choice.reactor, host, from);
    origin_end->peer_id_ = target_end->id_;
    target_end->peer_id_ = origin_end->id_;
    if (choice.budget) target_end->place_ = {nullptr, [b = choice.budget](void*) { b->GiveBack(); }};
    origin_end->identity_.address = fmt::format("{}:{}", host, port);
    target_end->identity_.listener = choice.kind;
    target_end->identity_.address = fmt::format("{}:{}", from, origin->machine().next_port_++);
    origin_end_id = origin_end->id_;
    choice.reactor->network_.accepted.push_back({target_end->id_, choice.handler});
    choice.reactor->ScheduleTurn(kernel_->now_ns());
  }
  kernel_->At(kernel_->now_ns() + Latency(host, from), origin->boot_, [this, connect_id, origin, origin_end_id] {
    auto it = connecting_.find(connect_id);
    if (it == connecting_.end()) {  // the connect timed out
      if (SimConnection* c = Find(origin_end_id)) c->Close(true);
      return;
    }
    ConnectOp* op = it->second;
    connecting_.erase(it);
    op->error = origin_end_id ? 0 : ECONNREFUSED;
    op->connection = origin_end_id;
    origin->CancelTimer(op);
    origin->Schedule(op->waiter);
  });
}

SimConnection* SimNetwork::NewEnd(SimReactor* reactor, std::string local_host, std::string remote_host) {
  auto c = std::make_unique<SimConnection>();
  c->network_ = this;
  c->reactor_ = reactor;
  c->id_ = next_id_++;
  c->local_host_ = std::move(local_host);
  c->remote_host_ = std::move(remote_host);
  SimConnection* raw = c.get();
  connections_[raw->id_] = std::move(c);
  return raw;
}

SimConnection* SimNetwork::Find(uint64_t id) {
  auto it = connections_.find(id);
  return it == connections_.end() ? nullptr : it->second.get();
}

// -- moving bytes

void SimNetwork::MarkFlush(SimConnection* c) {
  if (!std::exchange(c->marked_flush_, true)) c->reactor_->network_.to_flush.push_back(c->id_);
  c->reactor_->Poke();
}

void SimNetwork::MarkDeliver(SimConnection* c) {
  if (!std::exchange(c->marked_deliver_, true)) c->reactor_->network_.to_deliver.push_back(c->id_);
  c->reactor_->Poke();
}

Nanos SimNetwork::Latency(const std::string& from, const std::string& to) {
  const SimOptions& options = kernel_->options();
  auto own = latencies_.find({from, to});
  if (own == latencies_.end()) return kernel_->Latency(options.network_min_ns, options.network_max_ns);
  return kernel_->Latency(own->second.first, own->second.second);
}

void SimNetwork::Transmit(SimConnection* from, SimConnection::Segment segment) {
  if (from->peer_lost_) {
    from->vanished_bytes_ += segment.bytes.size();
    return;
  }
  SimConnection* to = Find(from->peer_id_);
  if (!to) {  // the other end is gone
    if (!segment.reset && !segment.end) SendReset(from->id_);
    return;
  }
  to->window_used_ += segment.bytes.size();
  to->wire_.push_back(std::move(segment));
  const Nanos arrival = kernel_->now_ns() + Latency(to->remote_host_, to->local_host_);
  to->last_arrival_ns_ = std::max(to->last_arrival_ns_ + 1, arrival);
  kernel_->At(to->last_arrival_ns_, SimKernel::kNoBoot, [this, id = to->id_] { Arrive(id); });
}

void SimNetwork::SendReset(uint64_t to_id) {
  SimConnection* to = Find(to_id);
  if (!to) return;
  to->wire_.push_back({"", false, true});
  const Nanos arrival = kernel_->now_ns() + Latency(to->remote_host_, to->local_host_);
  to->last_arrival_ns_ = std::max(to->last_arrival_ns_ + 1, arrival);
  kernel_->At(to->last_arrival_ns_, SimKernel::kNoBoot, [this, to_id] { Arrive(to_id); });
}

void SimNetwork::Arrive(uint64_t to_id) {
  SimConnection* to = Find(to_id);
  if (!to || to->wire_.empty()) return;
  if (IsCut(to->remote_host_, to->local_host_)) {
    kernel_->At(kernel_->now_ns() + kRetransmitNs, SimKernel::kNoBoot, [this, to_id] { Arrive(to_id); });
    return;
  }
  if (kernel_->now_ns() < to->held_until_ns_) {
    return kernel_->At(to->held_until_ns_, SimKernel::kNoBoot, [this, to_id] { Arrive(to_id); });
  }
  SimConnection::Segment segment = std::move(to->wire_.front());
  to->wire_.pop_front();
  kernel_->Trace(3000 + to_id, segment.bytes.size(), segment.end + 2 * segment.reset);
  // A machine that lost power is silent until it runs again. Then it does not know this connection.
  if (to->reactor_->dead()) {
    SimMachine* machine = kernel_->machine(to->local_host_);
    if (machine && machine->answers_) SendReset(to->peer_id_);
    return;
  }
  to->inbox_.push_back(std::move(segment));
  MarkDeliver(to);
}

void SimNetwork::Consumed(SimConnection* c, size_t bytes) {
  c->window_used_ -= bytes;
  SimConnection* sender = Find(c->peer_id_);
  if (sender) sender->acknowledged_ += bytes;
  if (!sender || sender->reactor_->dead() || sender->unsent_bytes() == 0) return;
  kernel_->At(kernel_->now_ns() + Latency(c->local_host_, c->remote_host_), SimKernel::kNoBoot,
              [this, id = sender->id_] {
                SimConnection* s = Find(id);
                if (s && !s->reactor_->dead()) MarkFlush(s);
              });
}

void SimNetwork::Pump(SimConnection* c) {
  const SimOptions& options = kernel_->options();
  while (c->unsent_bytes() > 0) {
    SimConnection* peer = Find(c->peer_id_);
    const size_t used = c->peer_lost_ ? c->vanished_bytes_ : peer ? peer->window_used_ : 0;
    if (used >= options.socket_window_bytes) return;
    size_t bytes = std::min({c->unsent_bytes(), options.socket_window_bytes - used, kMaxSegmentBytes});
    if (options.random_chunks && kernel_->random().Chance(0.5)) bytes = 1 + kernel_->random().Below(bytes);
    std::string piece = c->outgoing_.substr(c->sent_, bytes);
    c->sent_ += bytes;
    Transmit(c, {std::move(piece), false, false});
  }
  c->outgoing_.clear();
  c->sent_ = 0;
}

// -- in a turn

void SimNetwork::Deliver(SimReactor* reactor) {
  SimReactorNetwork& mine = reactor->network_;
  std::vector<SimReactorNetwork::Accepted> accepted;
  accepted.swap(mine.accepted);
  for (const auto& a : accepted) {
    SimConnection* c = Find(a.connection);
    if (!c) continue;
    const bool listening = std::any_of(mine.listeners.begin(), mine.listeners.end(),
                                       [&a](const auto& l) { return l.handler == a.handler; });
    if (!listening) {  // the listener stopped meanwhile
      c->Close(true);
      continue;
    }
    a.handler->OnAccept(c);
    CHECK(c->handler_) << "OnAccept did not set a handler";
    if (reactor->dead()) return;
  }
  std::vector<uint64_t> ids;
  ids.swap(mine.to_deliver);
  for (uint64_t id : ids) {
    DeliverOne(id);
    if (reactor->dead()) return;
  }
}

void SimNetwork::DeliverOne(uint64_t id) {
  SimConnection* c = Find(id);
  if (!c) return;
  c->marked_deliver_ = false;
  while (!c->inbox_.empty()) {
    if (!c->handler_) return;
    if (c->paused_ && !c->closing_) {
      // The end of an accepted connection is noticed all the same (S6 of UringNetwork); what came before it is lost.
      const bool gone = c->inbox_.back().end && c->identity_.listener;
      if (!gone && !c->inbox_.front().reset) return;
      if (gone) return End(c, Error(Code::kAborted, "{} closed the connection", c->identity_.address));
    }
    SimConnection::Segment segment = std::move(c->inbox_.front());
    c->inbox_.pop_front();
    if (segment.reset)
      return End(c, Error(Code::kAborted, "receive from {} failed: connection reset", c->identity_.address));
    if (segment.end) return End(c, Error(Code::kAborted, "{} closed the connection", c->identity_.address));
    const size_t bytes = segment.bytes.size();
    if (!c->closing_) c->handler_->OnData(segment.bytes);
    // The receive buffer goes back to the kernel (K2).
    std::memset(segment.bytes.data(), 0xdb, bytes);
    if (c->reactor_->dead()) return;
    Consumed(c, bytes);
  }
}

void SimNetwork::Flush(SimReactor* reactor) {
  std::vector<uint64_t> ids;
  ids.swap(reactor->network_.to_flush);
  for (uint64_t id : ids) {
    FlushOne(id);
    if (reactor->dead()) return;
  }
}

void SimNetwork::FlushOne(uint64_t id) {
  SimConnection* c = Find(id);
  if (!c) return;
  c->marked_flush_ = false;
  Pump(c);
  if (c->unsent_bytes() > 0) return;
  if (c->closing_) return End(c, Error(Code::kAborted, "connection to {} closed on this side", c->identity_.address));
  if (std::exchange(c->send_pending_, false) && c->handler_) c->handler_->OnSent();
}

// Ends this side of the connection: the peer gets a FIN after the sent bytes, the handler its last
// call.
void SimNetwork::End(SimConnection* c, const Status& reason) {
  c->told_ = true;
  if (!c->silent_) Transmit(c, {"", true, false});
  if (c->handler_) c->handler_->OnClosed(reason);
  connections_.erase(c->id_);
}

// -- faults

void SimNetwork::HealAll() {
  cuts_.clear();
  latencies_.clear();
  for (auto& [id, c] : connections_) c->held_until_ns_ = 0;
}

void SimNetwork::Hold(const std::string& from, const std::string& to, Nanos until_ns) {
  for (auto& [id, c] : connections_) {
    if (c->remote_host_ == from && c->local_host_ == to) c->held_until_ns_ = std::max(c->held_until_ns_, until_ns);
  }
}

void SimNetwork::Forget(const std::string& machine, const std::string& peer) {
  for (auto& [id, c] : connections_) {
    if (c->local_host_ != machine || c->remote_host_ != peer || c->reactor_->dead()) continue;
    if (SimConnection* other = Find(c->peer_id_)) other->peer_lost_ = true;
    c->silent_ = true;
    c->wire_.clear();
    c->inbox_.push_back({"", false, true});
    MarkDeliver(c.get());
  }
}

void SimNetwork::ResetConnections(const std::string& a, const std::string& b) {
  std::vector<uint64_t> ids;
  for (const auto& [id, c] : connections_) {
    if ((c->local_host_ == a && c->remote_host_ == b) || (c->local_host_ == b && c->remote_host_ == a)) {
      ids.push_back(id);
    }
  }
  for (uint64_t id : ids) SendReset(id);
}

void SimNetwork::OnMachineStopped(SimMachine* machine, bool silent) {
  std::erase_if(connecting_, [&](const auto& entry) { return &entry.second->reactor->machine() == machine; });
  for (auto it = connections_.begin(); it != connections_.end();) {
    SimConnection* c = it->second.get();
    if (c->local_host_ != machine->host() || c->reactor_->dead()) {
      ++it;
      continue;
    }
    c->network_ = nullptr;  // abandoned handlers may still call it
    if (!silent) SendReset(c->peer_id_);
    if (silent) {
      // The end stays known, so that segments for it can be answered when the machine runs again.
      auto ghost = std::make_unique<SimConnection>();
      ghost->reactor_ = c->reactor_;
      ghost->id_ = c->id_;
      ghost->peer_id_ = c->peer_id_;
      ghost->local_host_ = c->local_host_;
      ghost->remote_host_ = c->remote_host_;
      ghost->held_until_ns_ = c->held_until_ns_;
      ghost->wire_ = std::move(c->wire_);
      it->second.swap(ghost);
      c->reactor_->Adopt(std::move(ghost));
      ++it;
    } else {
      c->reactor_->Adopt(std::move(it->second));
      it = connections_.erase(it);
    }
  }
}

}  // namespace pando
