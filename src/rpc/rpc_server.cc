#include "src/rpc/rpc_server.h"

#include <algorithm>
#include <utility>

#include "gen-cpp/pando_constants.h"

namespace pando {

namespace {

constexpr Nanos kWatchIntervalNs = kSecond;
// While less than this part of the memory is free, a peer that has many bytes to read and reads less than a part of
// them in a second gives way to others.
constexpr int64_t kShortPart = 8;
constexpr size_t kManyUnreadBytes = 256u << 10, kLeastPartRead = 16;
constexpr Nanos kLogIntervalNs = 10 * kSecond;
constexpr int32_t kOverloadRetryMs = 50;
constexpr uint32_t kMaxRefused = 64;  // connections over the limit that stay open to get an error
constexpr Nanos kRefusedLimitNs = 3 * kSecond;
constexpr size_t kEvictSample = 32;  // connections that EvictOne looks at
constexpr size_t kMaxBufferBytes = 256u << 10;
constexpr size_t kMaxBuffersBytes = 2u << 20;
constexpr Nanos kShutdownPollNs = 5 * kMillisecond;

}  // namespace

RpcServer::RpcServer(Reactor& reactor, RpcOptions options, RpcShared* shared)
    : reactor_(reactor), options_(std::move(options)), shared_(shared), account_(&shared->memory) {
  watch_.server = this;
  watch_.on_fire = [](Timer* t) { static_cast<WatchTimer*>(t)->server->OnWatch(); };
}

RpcServer::~RpcServer() {
  CHECK(connections_.empty()) << "an RpcServer was destroyed before its Shutdown had finished";
  reactor_.CancelTimer(&watch_);
}

Result<uint16_t> RpcServer::Listen(const ListenOptions& options) {
  ASSIGN_OR_RETURN(uint16_t port, reactor_.Listen(options, this));
  listening_ = true;
  reactor_.ArmTimer(&watch_, reactor_.NowNs() + kWatchIntervalNs);
  return port;
}

Task<void> RpcServer::Shutdown(Nanos limit_ns, std::function<void()> on_late) {
  stopping_ = true;
  if (std::exchange(listening_, false)) reactor_.StopListening(this);
  Nanos give_up_ns = reactor_.NowNs() + limit_ns;
  while (!connections_.empty()) {
    const bool late = reactor_.NowNs() >= give_up_ns;
    if (late && on_late) std::exchange(on_late, nullptr)();
    for (auto& c : connections_) {
      if (c->connection_ == nullptr) continue;  // closed, but its calls are still running
      bool busy = c->unanswered() > 0 || c->ReplyBytes() > 0;
      if (late || (!busy && !c->close_sent_)) {
        c->close_sent_ = true;
        c->connection_->Close(late);
      }
    }
    // Poll. Connections may close and calls may end in the meantime.
    co_await Sleep(reactor_, kShutdownPollNs);
  }
  reactor_.CancelTimer(&watch_);
}

void RpcServer::OnAccept(Connection* connection) {
  metrics_.accepted_total.Add();
  if (options_.filters != nullptr) {
    FilterOptions filter;
    filter.memory = &account_;
    filter.metrics = &metrics_.filters;
    connection = AddFilter(reactor_, connection, options_.filters->MakeFilter(reactor_), filter);
  }
  const bool full = shared_->connections.fetch_add(1, std::memory_order_relaxed) >= options_.max_connections;
  // The evicted connection is gone at the end of this turn. Until then its socket is one of those
  // that the node keeps beyond the limit.
  const bool refused = full && !EvictOne();
  auto c = std::make_unique<RpcConnection>(this, connection, refused);
  connection->SetHandler(c.get());
  c->list_index_ = static_cast<uint32_t>(connections_.size());
  c->active_ns_ = reactor_.NowNs();
  if (refused) {
    metrics_.refused_total.Add();
    LogLimited(fmt::format("refusing {}: {} connections are open, which is the limit (--max_connections)",
                           connection->identity().address, options_.max_connections));
  }
  // If too many refused connections are already open, drop this one at once: a lingering close
  // would keep its descriptor for a while.
  if (refused && ++refused_ > kMaxRefused) connection->Close(/*now=*/true);
  connections_.push_back(std::move(c));
  metrics_.connections.Add(1);
}

// What it had asked for may go on for long, and counts against the memory, not against --max_connections.
void RpcServer::NoteClosed() {
  shared_->connections.fetch_sub(1, std::memory_order_relaxed);
  metrics_.connections.Add(-1);
}

// Looks at a sample, so that a flood of new connections costs little. Those that never sent a byte
// go first, then those that have been idle for longest. Clients must be ready to find an idle
// connection closed.
bool RpcServer::EvictOne() {
  const Nanos now = reactor_.NowNs();
  const size_t count = connections_.size();
  RpcConnection* victim = nullptr;
  for (size_t i = 0; i < std::min(count, kEvictSample); ++i) {
    RpcConnection* c = connections_[count <= kEvictSample ? i : reactor_.Random() % count].get();
    if (!c->IsIdle() || now - c->active_ns_ < options_.evict_after_ns) continue;
    const bool better = victim == nullptr || std::pair(c->received_bytes_ > 0, c->active_ns_) <
                                                 std::pair(victim->received_bytes_ > 0, victim->active_ns_);
    if (better) victim = c;
  }
  if (victim == nullptr) return false;
  metrics_.evicted_total.Add();
  LogLimited(fmt::format(
      "closing {}, which was idle for {} s: {} connections are open, which is the limit "
      "(--max_connections), and another client wants to connect",
      victim->connection_->identity().address, (now - victim->active_ns_) / kSecond, options_.max_connections));
  victim->close_sent_ = true;
  victim->connection_->Close(/*now=*/true);  // the loop calls OnClosed later
  return true;
}

void RpcServer::Remove(RpcConnection* c) {
  uint32_t index = c->list_index_;
  std::unique_ptr<RpcConnection> gone = std::move(connections_[index]);
  if (index + 1 < connections_.size()) {
    connections_[index] = std::move(connections_.back());
    connections_[index]->list_index_ = index;
  }
  connections_.pop_back();
}

// -- answering

std::string* RpcServer::BeginReply(const RequestId& id) {
  if (id.connection->state_ == RpcConnection::State::kClosed) {
    if (discarded_.capacity() > kMaxBufferBytes) std::string().swap(discarded_);
    discarded_.clear();
    return &discarded_;
  }
  return id.connection->BeginReply(id.sequence);
}

void RpcServer::EndReply(const RequestId& id) {
  RpcConnection* c = id.connection;
  if (c->state_ != RpcConnection::State::kClosed) return c->EndReply(id.sequence);
  ++c->head_;  // the order no longer matters; only the number of unanswered requests does
  if (c->Forgotten()) Remove(c);
}

void RpcServer::EndCall(const RequestId& id) {
  RpcConnection* c = id.connection;
  --c->running_;
  if (c->paused_) c->MarkDirty();
  service_->OnReplyRoom();
  if (c->Forgotten()) Remove(c);
}

void RpcServer::ReplyError(const RequestId& id, std::string_view method, const api::KvError& error) {
  api::Kv_get_result result;  // in every method's result, field 1 is the error
  result.error = error;
  result.__isset.error = true;
  Reply(id, method, result);
}

void RpcServer::ReplyException(const RequestId& id, std::string_view method,
                               TApplicationException::TApplicationExceptionType type, std::string_view message) {
  metrics_.bad_requests_total.Add();
  codec_.WriteException(Header(id, method, apache::thrift::protocol::T_EXCEPTION), type, message, BeginReply(id));
  EndReply(id);
}

api::KvError RpcServer::OverloadedError(size_t needed_bytes) const {
  api::KvError error;
  if (static_cast<int64_t>(needed_bytes) > shared_->memory.limit_bytes()) {
    error.code = api::g_pando_constants.TOO_LARGE;
    error.message = fmt::format(
        "the request needs up to {} bytes of memory, but this node has {} for all requests; send a smaller request or "
        "raise "
        "--memory_limit_mb",
        needed_bytes, shared_->memory.limit_bytes());
    error.applied = api::g_pando_constants.APPLIED_NO;
    return error;
  }
  error.code = api::g_pando_constants.OVERLOADED;
  error.message = fmt::format(
      "the node has no memory for more requests: {} bytes of requests and replies are in progress, "
      "and the limit is {}",
      shared_->memory.used_bytes(), shared_->memory.limit_bytes());
  error.applied = api::g_pando_constants.APPLIED_NO;
  error.retryable = true;
  error.retry_after_ms = kOverloadRetryMs;
  return error;
}

// -- the turn

void RpcServer::MarkDirty(RpcConnection* c) {
  c->dirty_ = true;
  dirty_.push_back(c);
  if (!in_turn_end_) reactor_.ArmTurnHook(this);
}

void RpcServer::ContinueInNextTurn(RpcConnection* c) {
  c->dirty_ = true;
  later_.push_back(c);
}

void RpcServer::OnTurnEnd() {
  in_turn_end_ = true;
  // After a flush, a connection may process requests that it has already received, and these
  // produce more replies. What a turn may handle of each connection bounds the number of rounds.
  do {
    if (std::exchange(service_pending_, false)) service_->OnTurnEnd();
    flushing_.swap(dirty_);
    for (RpcConnection* c : flushing_) {
      c->dirty_ = false;
      c->Flush();
      if (c->Forgotten()) Remove(c);
    }
    flushing_.clear();
  } while (!dirty_.empty() || service_pending_);
  in_turn_end_ = false;
  ++turn_;
  dirty_.swap(later_);
  if (!dirty_.empty()) reactor_.ArmTurnHook(this);
}

void RpcServer::OnWatch() {
  Nanos now = reactor_.NowNs();
  const RpcConnection* closed = CloseWorstReader();
  for (auto& c : connections_) {
    if (c->connection_ != nullptr && c.get() != closed) Watch(c.get(), now);
  }
  reactor_.ArmTimer(&watch_, now + kWatchIntervalNs);
}

const RpcConnection* RpcServer::CloseWorstReader() {
  const MemoryBudget& memory = shared_->memory;
  const bool was_short =
      std::exchange(was_short_, memory.limit_bytes() - memory.used_bytes() < memory.limit_bytes() / kShortPart);
  if (!was_short_) return nullptr;
  RpcConnection* worst = nullptr;
  for (auto& c : connections_) {
    if (c->connection_ == nullptr || c->accounted_bytes_ < kManyUnreadBytes) continue;
    const uint64_t read = c->connection_->acknowledged_bytes();
    const bool reads = read - std::exchange(c->read_then_, read) >= c->accounted_bytes_ / kLeastPartRead;
    if (!reads && (worst == nullptr || worst->accounted_bytes_ < c->accounted_bytes_)) worst = c.get();
  }
  if (!was_short || worst == nullptr) return nullptr;
  metrics_.closed_stalled_total.Add();
  LogLimited(fmt::format("closing {}: it does not read the {} bytes of its replies, and memory is short",
                         worst->connection_->identity().address, worst->accounted_bytes_));
  worst->connection_->Close(true);
  return worst;
}

void RpcServer::Watch(RpcConnection* c, Nanos now) {
  // A slow request does not make a connection stalled. Only bytes that the peer owes count.
  const bool owes_reading = c->connection_->unsent_bytes() > 0;
  const bool owes_writing =
      (!c->pending_.empty() || c->skipped_ || c->state_ == RpcConnection::State::kRefused) && !c->paused_;
  if (c->state_ == RpcConnection::State::kRefused && c->writing_.owed &&
      now - c->writing_.since_ns >= kRefusedLimitNs) {
    // It has not sent its request, and another client may need the place to learn why it is refused.
    return c->connection_->Close(true);
  }
  const uint64_t taken = owes_reading ? c->connection_->acknowledged_bytes() : 0;
  if (TooSlow(&c->reading_, owes_reading, c->accounted_bytes_, taken, now) ||
      TooSlow(&c->writing_, owes_writing, c->pending_reserved_, c->received_bytes_, now)) {
    metrics_.closed_stalled_total.Add();
    LogLimited(
        fmt::format("closing {}: it moved too few bytes in {} s, with {} bytes unsent and {} bytes of a request "
                    "received. It must move {} bytes/s, and more if it holds much memory (--stall_timeout_s)",
                    c->connection_->identity().address, options_.stall_timeout_ns / kSecond,
                    c->connection_->unsent_bytes(), c->pending_.size(), options_.min_bytes_per_s));
    return c->connection_->Close(true);
  }
  const bool busy = owes_reading || owes_writing || c->unanswered() > 0 || c->running_ > 0;
  if (busy || c->received_bytes_ != c->received_when_active_) {
    c->received_when_active_ = c->received_bytes_;
    c->active_ns_ = now;
  } else if (options_.idle_timeout_ns > 0 && now - c->active_ns_ >= options_.idle_timeout_ns && !c->close_sent_) {
    metrics_.closed_idle_total.Add();
    c->CloseAfterReplies();
  }
}

bool RpcServer::TooSlow(RpcConnection::Progress* progress, bool owed, size_t held_bytes, uint64_t moved_bytes,
                        Nanos now) const {
  if (owed && progress->owed && now - progress->since_ns < options_.stall_timeout_ns) return false;
  const uint64_t hold_limit_s = static_cast<uint64_t>(options_.hold_limit_ns / kSecond);
  const uint64_t rate = std::max(options_.min_bytes_per_s, std::min(held_bytes, kMaxFrameBytes) / hold_limit_s);
  const uint64_t least = rate * static_cast<uint64_t>(options_.stall_timeout_ns) / kSecond;
  const bool slow = owed && progress->owed && moved_bytes - progress->bytes_then < least;
  *progress = {owed, now, moved_bytes};  // starts the next period, if progress is still owed
  return slow;
}

void RpcServer::RegisterMetrics(Registry* registry, const void* owner, const MetricLabels& labels) const {
  auto add = [&](std::string name, std::string help, const auto* metric) {
    registry->Add(owner, std::move(name), std::move(help), labels, metric);
  };
  const RpcMetrics& rpc = metrics_;
  add("kv_rpc_connections_count", "Open client connections.", &rpc.connections);
  add("kv_rpc_paused_connections_count", "Connections that the server does not read from because they reached a limit.",
      &rpc.paused_connections);
  add("kv_rpc_buffered_bytes", "Bytes of incomplete frames, requests and replies in progress.", &rpc.buffered_bytes);
  add("kv_rpc_accepted_connections_total", "Connections accepted.", &rpc.accepted_total);
  add("kv_rpc_refused_connections_total", "Connections refused because of --max_connections.", &rpc.refused_total);
  add("kv_rpc_evicted_connections_total",
      "Idle connections closed to make room for new ones because of --max_connections.", &rpc.evicted_total);
  add("kv_rpc_stalled_connections_total", "Connections closed because their peer was too slow.",
      &rpc.closed_stalled_total);
  add("kv_rpc_idle_connections_total", "Connections closed because they were idle for too long.",
      &rpc.closed_idle_total);
  add("kv_rpc_closed_overloaded_connections_total",
      "Connections closed because they kept sending while there was no memory to read them.",
      &rpc.closed_overloaded_total);
  add("kv_rpc_received_bytes_total", "Bytes received from clients.", &rpc.received_bytes_total);
  add("kv_rpc_sent_bytes_total", "Bytes handed to the kernel for clients.", &rpc.sent_bytes_total);
  add("kv_rpc_overloaded_requests_total", "Requests refused for lack of memory.", &rpc.overloaded_total);
  add("kv_rpc_late_requests_total", "Requests that exceeded their time budget.", &rpc.deadline_total);
  add("kv_rpc_bad_requests_total", "Requests that could not be decoded or named an unknown method.",
      &rpc.bad_requests_total);
  add("kv_rpc_garbage_connections_total", "Connections that sent something other than Thrift.", &rpc.garbage_total);
  add("kv_rpc_handshaking_connections_count", "Connections whose byte filter has not finished its handshake.",
      &rpc.filters.handshakes);
  add("kv_rpc_established_handshakes_total", "Handshakes of byte filters that were completed.",
      &rpc.filters.established_total);
  add("kv_rpc_failed_handshakes_total", "Connections closed because the handshake of their byte filter failed.",
      &rpc.filters.failed_total);
}

// -- helpers

std::string RpcServer::TakeBuffer() {
  if (buffers_.empty()) return {};
  std::string buffer = std::move(buffers_.back());
  buffers_.pop_back();
  buffers_bytes_ -= buffer.capacity();
  return buffer;
}

void RpcServer::GiveBuffer(std::string buffer) {
  if (buffer.capacity() > kMaxBufferBytes || buffers_bytes_ + buffer.capacity() > kMaxBuffersBytes) return;
  buffer.clear();
  buffers_bytes_ += buffer.capacity();
  buffers_.push_back(std::move(buffer));
}

void RpcServer::LogLimited(const std::string& message) {
  Nanos now = reactor_.NowNs();
  if (now < next_log_ns_) {
    ++unlogged_;
    return;
  }
  next_log_ns_ = now + kLogIntervalNs;
  LOG(WARNING) << message << (unlogged_ > 0 ? fmt::format(" ({} more like this were not logged)", unlogged_) : "");
  unlogged_ = 0;
}

}  // namespace pando
