#include "src/io/uring_network.h"

#include <fcntl.h>
#include <linux/tcp.h>  // tcp_info of <netinet/tcp.h> lacks the acknowledged bytes
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "src/io/append_sparely.h"
#include "src/io/socket_address.h"

namespace pando {
namespace {

constexpr unsigned short kBufferGroup = 1;
constexpr Nanos kAcceptRetryNs = 20 * kMillisecond;
// The same while lingering connections make room, which takes a turn or two.
constexpr Nanos kAcceptSoonNs = kMillisecond / 2;
// How many lingering connections make room at once, and how many EndLingering looks at to find
// them: the listeners of one reactor may have different budgets.
constexpr int kMaxEndedAtOnce = 16;
constexpr int kMaxLingeringSeen = 1024;
// After this many accepts, the rest of the loop gets its turn.
constexpr int kMaxAcceptsPerTurn = 64;
constexpr int kKeepAliveProbes = 3;
// Limits on spare send strings: their number, the size of each, and their total size, for which a
// node's memory limit allows.
constexpr size_t kMaxSpares = 256;
constexpr size_t kMaxSpareBytes = 256u << 10;
constexpr size_t kMaxSparesBytes = 2u << 20;
// The most bytes in one send. A longer queue leaves in several sends, so that MSG_WAITALL cannot
// hold on to megabytes.
constexpr size_t kMaxSendBytes = 1u << 20;

}  // namespace

Result<int> UringNetwork::MakeSocket(const SocketAddress& address) const {
  int fd = socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoError(errno, "create a socket for {}", address.ToString());
  // Accepted sockets inherit all of these options.
  auto set = [fd](int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  const int timeout_s = static_cast<int>(std::clamp<Nanos>(options_.peer_timeout_ns / kSecond, 2, 32'767));
  // The connection may be silent for the first half of the timeout; the probes take the second
  // half.
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, timeout_s / 2);
  set(IPPROTO_TCP, TCP_KEEPINTVL, std::max(timeout_s / 2 / kKeepAliveProbes, 1));
  set(IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_s * 1000);
  // A congestion control algorithm that paces (BBR) arms a timer for nearly every request and
  // reply. Loopback has no network path to protect. All other addresses keep the system's choice.
  if (address.IsLoopback()) setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
  return fd;
}

// A connect in progress. It lives in the coroutine frame of UringNetwork::Connect.
struct UringNetwork::ConnectOp : Timer {
  UringNetwork* network = nullptr;
  int fd = -1;
  const SocketAddress* address = nullptr;
  Nanos timeout_ns = 0;
  int32_t result = 0;
  bool timed_out = false;
  std::coroutine_handle<> waiter;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    io_uring_sqe* sqe = network->core_->Sqe();
    io_uring_prep_connect(sqe, fd, address->get(), address->length);
    UringCore::Own(sqe, this, UringTag::kConnect);
    ++network->in_flight_;
    on_fire = [](Timer* t) {
      auto* op = static_cast<ConnectOp*>(t);
      op->timed_out = true;
      op->network->core_->Cancel(UringCore::UserData(op, UringTag::kConnect));
    };
    network->core_->timers.Arm(this, network->core_->now_ns + timeout_ns);
  }
  void await_resume() const noexcept {}
};

UringConnection::UringConnection(UringNetwork* network, int fd, Identity identity, ConnectionBudget* budget)
    : Connection(std::move(identity)), network_(network), fd_(fd), budget_(budget) {
  timer_.connection = this;
  timer_.on_fire = [](Timer* t) {
    UringConnection* c = static_cast<LingerTimer*>(t)->connection;
    if (c->state_ == State::kDraining) {
      c->network_->End(
          c, Error(Code::kAborted, "closing {} took too long: the peer did not read the last bytes sent to it",
                   c->peer()));
    } else {
      c->network_->Die(c);
    }
  };
}

void UringConnection::SetHandler(ConnectionHandler* handler) {
  handler_ = handler;
  network_->MarkForFlush(this);  // so that receiving starts
}

void UringConnection::Send(std::string* bytes) {
  if (bytes->empty()) return;
  if (state_ != State::kOpen) {
    bytes->clear();
    return;
  }
  if (pending_.empty()) {
    if (pending_.capacity() <= std::string().capacity()) network_->TakeSpare(&pending_);
    pending_.swap(*bytes);
  } else {
    AppendSparely(&pending_, *bytes);
    bytes->clear();
  }
  network_->MarkForFlush(this);
}

uint64_t UringConnection::acknowledged_bytes() const {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return 0;
  return info.tcpi_bytes_acked;
}

void UringConnection::PauseReceive() {
  if (paused_ || state_ != State::kOpen) return;
  paused_ = true;
  if (receive_armed_ && !receive_cancelled_) {
    receive_cancelled_ = true;
    network_->core_->Cancel(UringCore::UserData(this, UringTag::kReceive));
  }
  network_->MarkForFlush(this);
}

void UringConnection::ResumeReceive() {
  if (!paused_) return;
  paused_ = false;
  network_->MarkForFlush(this);
}

void UringConnection::Close(bool now) {
  if (state_ != State::kOpen && !(now && state_ == State::kDraining)) return;
  if (now) {
    pending_.clear();
    if (!send_armed_) sending_.clear(), sent_ = 0;
    close_now_ = true;
  }
  if (state_ == State::kOpen) network_->Drain(this);
  network_->MarkForFlush(this);
}

UringNetwork::~UringNetwork() {
  for (UringConnection* c : connections_) {
    close(c->fd_);
    if (c->budget_) c->budget_->GiveBack();
    core_->timers.Cancel(&c->timer_);
    delete c;
  }
  for (auto& listener : listeners_) {
    core_->timers.Cancel(listener.get());
    if (listener->fd >= 0) close(listener->fd);
  }
  if (buffers_) munmap(buffers_, size_t{buffer_count_} * buffer_bytes_);
  if (buffer_ring_) munmap(buffer_ring_, buffer_ring_bytes_);
}

Status UringNetwork::EnsureBuffers() {
  if (buffers_) return {};
  CHECK(std::has_single_bit(buffer_count_) && buffer_count_ <= 32768) << buffer_count_ << " receive buffers";
  auto map = [](size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  };
  const size_t bytes = size_t{buffer_count_} * buffer_bytes_;
  buffer_ring_bytes_ = buffer_count_ * sizeof(io_uring_buf);
  void* ring = map(buffer_ring_bytes_);
  if (ring == MAP_FAILED) return ErrnoError(errno, "map the ring of receive buffers");
  buffer_ring_ = static_cast<io_uring_buf_ring*>(ring);
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<uint64_t>(ring);
  registration.ring_entries = buffer_count_;
  registration.bgid = kBufferGroup;
  if (int rc = io_uring_register_buf_ring(&core_->ring, &registration, 0); rc < 0) {
    return Error(Code::kUnsupported,
                 "the kernel refused a ring of provided buffers ({}); Pando's network needs Linux 6.0 or newer",
                 strerror(-rc));
  }
  void* memory = map(bytes);
  if (memory == MAP_FAILED) return ErrnoError(errno, "map {} bytes of receive buffers", bytes);
  buffers_ = static_cast<char*>(memory);
  io_uring_buf_ring_init(buffer_ring_);
  for (unsigned i = 0; i < buffer_count_; ++i) RecycleBuffer(i);
  return {};
}

void UringNetwork::RecycleBuffer(unsigned id) {
  io_uring_buf_ring_add(buffer_ring_, buffers_ + size_t{id} * buffer_bytes_, buffer_bytes_,
                        static_cast<unsigned short>(id), io_uring_buf_ring_mask(buffer_count_), 0);
  io_uring_buf_ring_advance(buffer_ring_, 1);
}

// -- listening and connecting

Result<uint16_t> UringNetwork::Listen(const ListenOptions& options, AcceptHandler* handler) {
  RETURN_IF_ERROR(EnsureBuffers());
  ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::Parse(options.host, options.port));
  ASSIGN_OR_RETURN(int fd, MakeSocket(address));
  auto listener = std::make_unique<Listener>();
  fcntl(fd, F_SETFL, O_NONBLOCK);  // a connection that was ready may be gone before it is accepted
  int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (options.reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  if (bind(fd, address.get(), address.length) != 0 || listen(fd, options.backlog) != 0) {
    Status status = errno == EADDRINUSE ? Error(Code::kAlreadyExists,
                                                "cannot listen on {}: another process uses this port; stop it or "
                                                "choose another port",
                                                address.ToString())
                                        : ErrnoError(errno, "listen on {}", address.ToString());
    close(fd);
    return status;
  }
  const SocketAddress bound = SocketAddress::OfSelf(fd);
  listener->network = this;
  listener->fd = fd;
  listener->handler = handler;
  listener->kind = options.kind;
  listener->budget = options.budgets ? &options.budgets->of(options.kind) : nullptr;
  listener->address = bound.ToString();
  listener->on_fire = [](Timer* t) {
    auto* l = static_cast<Listener*>(t);
    l->network->ArmPoll(l);
  };
  ArmPoll(listener.get());
  listeners_.push_back(std::move(listener));
  return bound.port();
}

void UringNetwork::ArmPoll(Listener* listener) {
  if (listener->poll_armed || listener->stopping) return;
  io_uring_sqe* sqe = core_->Sqe();
  io_uring_prep_poll_add(sqe, listener->fd, POLLIN);
  UringCore::Own(sqe, listener, UringTag::kAccept);
  listener->poll_armed = true;
  ++in_flight_;
}

void UringNetwork::StopListening(AcceptHandler* handler) {
  for (auto& listener : listeners_) {
    if (listener->handler != handler || listener->stopping) continue;
    listener->stopping = true;
    core_->timers.Cancel(listener.get());
    shutdown(listener->fd, SHUT_RDWR);  // refuses new connections at once, and ends the poll
    if (listener->poll_armed) core_->Cancel(UringCore::UserData(listener.get(), UringTag::kAccept));
    CloseIfStopped(listener.get());
  }
}

void UringNetwork::CloseIfStopped(Listener* listener) {
  if (!listener->stopping || listener->poll_armed || listener->fd < 0) return;
  close(std::exchange(listener->fd, -1));  // now and not in Flush, to free the port at once
  listeners_to_free_ = true;
}

void UringNetwork::OnPoll(Listener* listener) {
  listener->poll_armed = false;
  --in_flight_;
  if (shutting_down_) return;
  if (!listener->stopping) AcceptReady(listener);
  CloseIfStopped(listener);  // the handler may have stopped it in OnAccept
}

void UringNetwork::AcceptReady(Listener* listener) {
  for (int i = 0; i < kMaxAcceptsPerTurn; ++i) {
    if (!AcceptOne(listener)) return;
  }
  ArmPoll(listener);
}

bool UringNetwork::AcceptOne(Listener* listener) {
  // While no place or no descriptor is free, connections wait in the backlog, but they do not wait
  // for peers that have got all of their bytes and do not close. The listener is not
  // polled in that time, because the poll would complete again and again at once; a timer polls it
  // later.
  if (listener->budget && !listener->budget->TryTake()) {
    ++core_->stats.accept_pauses_total;
    // Lingering connections are cut only if somebody really waits for their place.
    pollfd waiting{listener->fd, POLLIN, 0};
    const bool soon = ::poll(&waiting, 1, 0) > 0 && EndLingering(listener->budget);
    core_->timers.Arm(listener, core_->now_ns + (soon ? kAcceptSoonNs : kAcceptRetryNs));
    return false;
  }
  const int fd = accept4(listener->fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0) {
    UringConnection* c = AddConnection(fd, listener);
    listener->handler->OnAccept(c);
    CHECK(c->handler_) << "OnAccept did not set a handler";
    return !listener->stopping;
  }
  if (listener->budget) listener->budget->GiveBack();
  switch (errno) {
    case EAGAIN: ArmPoll(listener); return false;
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENONET:
    case EOPNOTSUPP:
    case ENOPROTOOPT: return true;  // only this one connection failed
    default:                        // EMFILE, ENFILE, ENOBUFS, ENOMEM and the like
      ++core_->stats.accept_failures_total;
      LOG_EVERY_N(ERROR, 1000)
          << "accept on " << listener->address << " failed: " << strerror(errno)
          << "; new connections must wait. Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE= in a systemd unit)";
      core_->timers.Arm(listener, core_->now_ns + kAcceptRetryNs);
      return false;
  }
}

Task<Result<Connection*>> UringNetwork::Connect(std::string host, uint16_t port, Nanos timeout_ns) {
  CO_RETURN_IF_ERROR(EnsureBuffers());
  CO_ASSIGN_OR_RETURN(SocketAddress address, SocketAddress::Parse(host, port));
  CO_ASSIGN_OR_RETURN(int fd, MakeSocket(address));
  ConnectOp op;
  op.network = this;
  op.fd = fd;
  op.address = &address;
  op.timeout_ns = timeout_ns;
  // Suspends until the connect completes, or until `op`'s timer cancels it.
  co_await op;
  if (op.result == 0) co_return static_cast<Connection*>(AddConnection(fd, nullptr));
  close(fd);
  if (op.timed_out) {
    co_return Error(Code::kDeadline, "{} did not answer within {} ms", address.ToString(), timeout_ns / kMillisecond);
  }
  co_return Error(Code::kUnavailable, "connect to {}: {} (errno {}); is the node running there?", address.ToString(),
                  strerror(-op.result), -op.result);
}

// -- connections

UringConnection* UringNetwork::AddConnection(int fd, const Listener* listener) {
  Identity identity;
  identity.address = SocketAddress::OfPeer(fd).ToString();
  if (listener) identity.listener = listener->kind;
  auto* c = new UringConnection(this, fd, std::move(identity), listener ? listener->budget : nullptr);
  c->list_index_ = connections_.size();
  connections_.push_back(c);
  ++core_->stats.connections_total;
  core_->stats.connections = connections_.size();
  return c;
}

void UringNetwork::MarkForFlush(UringConnection* c) {
  if (c->on_flush_list_) return;
  c->on_flush_list_ = true;
  flush_list_.push_back(c);
}

void UringNetwork::Flush() {
  flushing_.swap(flush_list_);
  for (UringConnection* c : flushing_) {
    c->on_flush_list_ = false;
    FlushConnection(c);
  }
  flushing_.clear();
  if (std::exchange(listeners_to_free_, false)) {
    std::erase_if(listeners_, [](const auto& listener) { return listener->fd < 0; });
  }
}

void UringNetwork::FlushConnection(UringConnection* c) {
  using State = UringConnection::State;
  if (c->state_ == State::kDying) {
    // This is the only place that frees connections. When an operation that the kernel still holds
    // completes, the connection is marked for Flush again.
    if (!c->receive_armed_ && !c->send_armed_ && !c->hangup_armed_) Free(c);
    return;
  }
  if (c->state_ == State::kDraining && c->close_now_) {
    return End(c, Error(Code::kAborted, "connection to {} closed on this side", c->peer()));
  }
  if (c->state_ == State::kOpen || c->state_ == State::kDraining) {
    if (!c->send_armed_) StartSend(c);
    if (c->state_ == State::kDraining && c->unsent_bytes() == 0) StartLinger(c);
  }
  const bool wants_data = (c->state_ == State::kOpen && c->handler_ && !c->paused_) || c->state_ == State::kLingering;
  if (wants_data && !c->receive_armed_ && !c->receive_ended_) ArmReceive(c);
  // Nothing is received that would tell of the peer's end, and what it has asked for may take long (S6).
  if (c->state_ == State::kOpen && c->paused_ && c->identity_.listener && !c->hangup_armed_) ArmHangup(c);
}

// It stays armed when the connection receives again, because connections pause often.
void UringNetwork::ArmHangup(UringConnection* c) {
  io_uring_sqe* sqe = core_->Sqe();
  io_uring_prep_poll_add(sqe, c->fd_, POLLRDHUP);
  UringCore::Own(sqe, c, UringTag::kHangup);
  c->hangup_armed_ = true;
  ++in_flight_;
}

void UringNetwork::OnHangup(UringConnection* c) {
  using State = UringConnection::State;
  c->hangup_armed_ = false;
  --in_flight_;
  if (c->state_ == State::kDying) return MarkForFlush(c);
  // One that receives gets what came before the end, and then the end.
  if (c->state_ == State::kOpen && c->paused_) End(c, Error(Code::kAborted, "{} closed the connection", c->peer()));
}

void UringNetwork::StartSend(UringConnection* c) {
  if (c->sent_ == c->sending_.size()) {
    if (c->pending_.empty()) return;
    c->sending_.clear();
    c->sending_.swap(c->pending_);
    c->sent_ = 0;
  }
  io_uring_sqe* sqe = core_->Sqe();
  const size_t length = std::min(c->sending_.size() - c->sent_, kMaxSendBytes);
  io_uring_prep_send(sqe, c->fd_, c->sending_.data() + c->sent_, length, MSG_NOSIGNAL | MSG_WAITALL);
  UringCore::Own(sqe, c, UringTag::kSend);
  c->send_armed_ = true;
  ++in_flight_;
}

void UringNetwork::OnSend(UringConnection* c, int32_t result) {
  using State = UringConnection::State;
  c->send_armed_ = false;
  --in_flight_;
  if (c->state_ == State::kDying) return MarkForFlush(c);
  // The kernel ended the send early, for example because the process was stopped and continued.
  // Nothing is wrong with the connection.
  if (result == -EINTR || result == -EAGAIN) return MarkForFlush(c);
  if (result <= 0) {
    return End(c, Error(Code::kUnavailable, "send to {} failed: {}", c->peer(), strerror(-result)));
  }
  c->sent_ += static_cast<size_t>(result);
  if (c->sent_ == c->sending_.size()) {
    GiveSpare(&c->sending_);
    c->sent_ = 0;
  } else if (c->sent_ >= kMaxSendBytes && c->sent_ >= c->sending_.size() / 2) {
    // Free what the peer has taken, so that a peer that stops reading does not hold that memory.
    // Halving the string each time bounds the copying: on average, each byte moves at most about
    // once.
    std::string(c->sending_, c->sent_).swap(c->sending_);  // an assignment could keep the larger buffer
    c->sent_ = 0;
  }
  if (c->unsent_bytes() > 0 || c->state_ == State::kDraining) {
    MarkForFlush(c);
  } else if (c->handler_) {
    c->handler_->OnSent();
  }
}

void UringNetwork::ArmReceive(UringConnection* c) {
  io_uring_sqe* sqe = core_->Sqe();
  io_uring_prep_recv_multishot(sqe, c->fd_, nullptr, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = kBufferGroup;
  UringCore::Own(sqe, c, UringTag::kReceive);
  c->receive_armed_ = true;
  c->receive_cancelled_ = false;
  ++in_flight_;
}

void UringNetwork::OnReceive(UringConnection* c, int32_t result, uint32_t flags) {
  using State = UringConnection::State;
  if (!(flags & IORING_CQE_F_MORE)) {
    c->receive_armed_ = false;
    --in_flight_;
  }
  if (flags & IORING_CQE_F_BUFFER) {
    const unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
    if (result > 0 && c->state_ == State::kOpen && c->handler_) {
      c->handler_->OnData({buffers_ + size_t{id} * buffer_bytes_, static_cast<size_t>(result)});
    }
    RecycleBuffer(id);
  }
  if (c->state_ == State::kDying) return MarkForFlush(c);
  if (result == 0) {
    c->receive_ended_ = true;
    if (c->state_ == State::kLingering) return Die(c);
    if (c->state_ == State::kOpen) return End(c, Error(Code::kAborted, "{} closed the connection", c->peer()));
    return;
  }
  if (result == -ENOBUFS) ++core_->stats.receive_buffer_shortages_total;
  if (result < 0 && result != -ENOBUFS && result != -ECANCELED && result != -EINTR && result != -EAGAIN) {
    if (c->state_ == State::kLingering) return Die(c);
    return End(c, Error(Code::kAborted, "receive from {} failed: {}", c->peer(), strerror(-result)));
  }
  if (!c->receive_armed_) MarkForFlush(c);  // Flush re-arms it, once the buffers are back
}

// -- closing

bool UringNetwork::EndLingering(const ConnectionBudget* budget) {
  int ended = 0, seen = 0;
  for (auto it = lingering_.begin(); it != lingering_.end() && ended < kMaxEndedAtOnce && seen < kMaxLingeringSeen;) {
    UringConnection* c = *it++;  // Die takes it off the list
    ++seen;
    if (c->budget_ != budget) continue;
    Die(c);
    ++ended;
  }
  return ended > 0;
}

void UringNetwork::Drain(UringConnection* c) {
  c->state_ = UringConnection::State::kDraining;
  core_->timers.Arm(&c->timer_, core_->now_ns + options_.drain_limit_ns);
}

void UringNetwork::StartLinger(UringConnection* c) {
  shutdown(c->fd_, SHUT_WR);
  c->state_ = UringConnection::State::kLingering;
  c->lingering_at_ = lingering_.insert(lingering_.end(), c);
  core_->timers.Arm(&c->timer_, core_->now_ns + options_.linger_limit_ns);
  Notify(c, Error(Code::kAborted, "connection to {} closed on this side", c->peer()));
  if (c->receive_ended_) Die(c);
}

void UringNetwork::Notify(UringConnection* c, const Status& reason) {
  if (ConnectionHandler* handler = std::exchange(c->handler_, nullptr)) handler->OnClosed(reason);
}

void UringNetwork::End(UringConnection* c, const Status& reason) {
  DCHECK(c->state_ != UringConnection::State::kLingering) << "a lingering connection has had its last call";
  // Set kDying first: the handler must not be able to send or close again during its last call.
  c->state_ = UringConnection::State::kDying;
  Notify(c, reason);
  Die(c);
}

void UringNetwork::Die(UringConnection* c) {
  if (c->state_ == UringConnection::State::kLingering) lingering_.erase(c->lingering_at_);
  c->state_ = UringConnection::State::kDying;
  core_->timers.Cancel(&c->timer_);
  shutdown(c->fd_, SHUT_RDWR);  // ends any receive and send that the kernel holds
  if (c->receive_armed_ && !c->receive_cancelled_) {
    c->receive_cancelled_ = true;
    core_->Cancel(UringCore::UserData(c, UringTag::kReceive));
  }
  if (c->hangup_armed_) core_->Cancel(UringCore::UserData(c, UringTag::kHangup));
  MarkForFlush(c);
}

void UringNetwork::Free(UringConnection* c) {
  CHECK(!c->receive_armed_ && !c->send_armed_ && !c->hangup_armed_)
      << "S2: a connection was freed while the kernel held its operations";
  close(c->fd_);
  if (c->budget_) c->budget_->GiveBack();
  GiveSpare(&c->pending_);
  GiveSpare(&c->sending_);
  UringConnection* last = connections_.back();
  connections_[c->list_index_] = last;
  last->list_index_ = c->list_index_;
  connections_.pop_back();
  core_->stats.connections = connections_.size();
  delete c;
}

void UringNetwork::Shutdown() {
  shutting_down_ = true;
  for (UringConnection* c : connections_) {
    c->handler_ = nullptr;
    Die(c);  // no turn follows, so the destructor frees it
  }
  for (auto& listener : listeners_) {
    if (listener->stopping) continue;
    listener->stopping = true;
    shutdown(listener->fd, SHUT_RDWR);
    if (listener->poll_armed) core_->Cancel(UringCore::UserData(listener.get(), UringTag::kAccept));
  }
}

void UringNetwork::OnCompletion(UringTag tag, void* owner, int32_t result, uint32_t flags) {
  switch (tag) {
    case UringTag::kReceive: return OnReceive(static_cast<UringConnection*>(owner), result, flags);
    case UringTag::kSend: return OnSend(static_cast<UringConnection*>(owner), result);
    case UringTag::kHangup: return OnHangup(static_cast<UringConnection*>(owner));
    case UringTag::kAccept: return OnPoll(static_cast<Listener*>(owner));
    case UringTag::kConnect: {
      auto* op = static_cast<ConnectOp*>(owner);
      --in_flight_;
      core_->timers.Cancel(op);
      op->result = result;
      // Coroutines no longer run while the reactor is being destroyed.
      if (!shutting_down_) op->waiter.resume();
      return;
    }
    default: LOG(FATAL) << "a completion without a network tag was passed to UringNetwork";
  }
}

void UringNetwork::TakeSpare(std::string* into) {
  if (spares_.empty()) return;
  into->swap(spares_.back());
  spares_.pop_back();
  spares_bytes_ -= into->capacity();
}

void UringNetwork::GiveSpare(std::string* from) {
  from->clear();
  if (from->capacity() > 64 && from->capacity() <= kMaxSpareBytes && spares_.size() < kMaxSpares &&
      spares_bytes_ + from->capacity() <= kMaxSparesBytes) {
    spares_bytes_ += from->capacity();
    spares_.push_back(std::move(*from));
  }
  std::string().swap(*from);  // an assignment would keep the buffer
}

}  // namespace pando
