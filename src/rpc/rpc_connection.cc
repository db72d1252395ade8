#include "src/rpc/rpc_connection.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "gen-cpp/pando_constants.h"
#include "src/base/codec.h"
#include "src/rpc/rpc_server.h"

namespace pando {

namespace {

// Enough of a frame to find its method and sequence ID in any protocol.
constexpr size_t kHeadBytes = kFrameHeaderBytes + kMaxMethodNameBytes + 16;
// The most that is kept of the first request on a connection over the limit.
constexpr size_t kMaxRefusedBytes = 1024;
// The smallest buffer for a partial frame. A larger one grows with what has arrived.
constexpr size_t kMinPendingBytes = 512;
// These limits apply while memory is exhausted. A connection with more unsent bytes than
// kMaxUnsentWhenExhausted (room for a few refusals) is not read. A connection that had sent more
// than kMaxAheadWhenExhausted beyond its limits when its receiving stopped is closed.
constexpr size_t kMaxUnsentWhenExhausted = 1024;
constexpr size_t kMaxAheadWhenExhausted = 64u << 10;
// The unused capacity of a larger string has never been touched, so it takes no memory.
constexpr size_t kMaxTouchedSlack = 256u << 10;
// Replies beyond this size are handed to the connection before the turn ends. A string that grows
// by doubling can hold twice its bytes, which is too much when hundreds of connections do so.
constexpr size_t kMaxTurnBytes = 64u << 10;

// The work that one connection may have done in one turn, so that a burst on one connection does
// not keep the others waiting. It is measured in received bytes; a frame and an entry of a list
// count as this many bytes each, because a small frame takes about a microsecond, and an entry of a
// list a tenth of that. One frame is always handled.
constexpr size_t kMaxTurnWork = 256u << 10;
constexpr size_t kFrameWork = 512;
constexpr size_t kEntryWork = 64;

uint32_t FrameLength(std::string_view bytes) { return __builtin_bswap32(LoadLE<uint32_t>(bytes.data())); }

bool LooksLikeText(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](unsigned char c) { return std::isprint(c) || std::isspace(c); });
}

}  // namespace

RpcConnection::RpcConnection(RpcServer* server, Connection* connection, bool refused)
    : server_(server), connection_(connection), state_(refused ? State::kRefused : State::kOpen) {}

RpcConnection::~RpcConnection() {
  ReleasePending();
  server_->account_.Release(static_cast<int64_t>(std::exchange(accounted_bytes_, 0)));
}

// -- receiving

void RpcConnection::OnData(std::span<const char> data) {
  std::string_view bytes(data.data(), data.size());
  received_bytes_ += bytes.size();
  server_->metrics_.received_bytes_total.Add(bytes.size());
  if (state_ == State::kRefused) return RefuseFirstRequest(bytes);
  while (!bytes.empty() && state_ == State::kOpen) {
    size_t taken;
    if (skipped_) {
      taken = Skip(bytes);
    } else if (pending_.empty()) {
      taken = Consume(bytes);
      if (taken == 0 && state_ == State::kOpen) {
        Keep(bytes);
        taken = bytes.size();
      }
    } else if (paused_ || AtLimit()) {
      Pause();
      Keep(bytes);
      taken = bytes.size();
    } else {
      taken = TopUp(bytes);
    }
    bytes.remove_prefix(std::min(taken, bytes.size()));
  }
  if (state_ == State::kOpen && !paused_ && AtLimit()) Pause();
}

size_t RpcConnection::Consume(std::string_view bytes) {
  size_t taken = 0;
  while (bytes.size() >= kFrameHeaderBytes && state_ == State::kOpen) {
    if (AtLimit() || !HasTurnLeft()) {
      Pause();
      break;
    }
    uint32_t length = FrameLength(bytes);
    if (length == 0 || length > kMaxFrameBytes) [[unlikely]]
      return taken + OnBadLength(bytes, length);
    size_t whole = kFrameHeaderBytes + length;
    if (bytes.size() < whole) break;
    const uint64_t entries = server_->codec_.request_entries();
    OnFrame(bytes.substr(kFrameHeaderBytes, length));
    turn_work_ += kFrameWork + whole + kEntryWork * (server_->codec_.request_entries() - entries);
    bytes.remove_prefix(whole);
    taken += whole;
  }
  return taken;
}

void RpcConnection::ConsumePending() {
  if (pending_.empty() || state_ != State::kOpen) return;
  pending_consumed_ += Consume(std::string_view(pending_).substr(pending_consumed_));
  if (state_ != State::kOpen || pending_consumed_ == pending_.size()) return ReleasePending();
  // While the connection is paused, megabytes of small frames may be waiting. Moving them after
  // each turn would take longer than handling them.
  if (paused_ && pending_consumed_ < pending_.size() / 2) return;
  pending_.erase(0, std::exchange(pending_consumed_, 0));
}

bool RpcConnection::HasTurnLeft() {
  if (std::exchange(work_turn_, server_->turn_) != server_->turn_) turn_work_ = 0;
  return turn_work_ < kMaxTurnWork;
}

size_t RpcConnection::TopUp(std::string_view bytes) {
  size_t wanted = kFrameHeaderBytes;
  if (pending_.size() >= kFrameHeaderBytes) {
    uint32_t length = FrameLength(pending_);
    // For a bad length, collect the frame's head, so that the error can be sent as the reply to
    // that request.
    bool bad = length == 0 || length > kMaxFrameBytes;
    wanted = bad ? kHeadBytes : kFrameHeaderBytes + length;
  }
  size_t taken = std::min(bytes.size(), wanted - std::min(wanted, pending_.size()));
  if (taken > 0) Keep(bytes.substr(0, taken));
  if (!skipped_ && pending_.size() >= wanted) ConsumePending();
  return taken;
}

void RpcConnection::Keep(std::string_view bytes) {
  size_t needed = pending_.size() + bytes.size();
  if (needed > pending_reserved_) {
    std::string head = pending_.substr(0, kHeadBytes);
    head.append(bytes.substr(0, kHeadBytes - head.size()));
    size_t grown = std::max({needed, kMinPendingBytes, 2 * pending_reserved_});
    if (head.size() >= kFrameHeaderBytes) {
      // Reserve no more than the frame needs, unless more bytes than that are already here.
      grown = std::max(needed, std::min(grown, kFrameHeaderBytes + size_t{FrameLength(head)}));
    }
    // While the connection is paused, pending_ holds whole frames, and the bytes must be kept; the
    // receive buffers that are on their way bound them. A head that is too short to be answered
    // must be kept as well. The rest of a partial frame need not be.
    const auto more = static_cast<int64_t>(grown - pending_reserved_);
    if (!server_->account_.TryReserve(more)) {
      const bool must_keep = paused_ || grown <= kMinPendingBytes;
      if (!must_keep) return StartSkip(std::move(head), needed);
      if (grown > kMaxAheadWhenExhausted) return CloseOverloaded();
      server_->account_.Force(more);
    }
    pending_reserved_ = grown;
    pending_.reserve(grown);
  }
  pending_.append(bytes);
}

// Closes the connection: its requests cannot be answered one by one, because memory ran out before
// all could be kept.
void RpcConnection::CloseOverloaded() {
  server_->metrics_.closed_overloaded_total.Add();
  server_->LogLimited(
      fmt::format("closing {}: it sent more than {} bytes of requests ahead of its replies while the "
                  "node had no memory for more",
                  connection_->identity().address, kMaxAheadWhenExhausted));
  ReleasePending();
  CloseAfterReplies();
}

void RpcConnection::StartSkip(std::string head, size_t arrived) {
  ReleasePending();
  uint32_t length = FrameLength(head);
  if (length > kMaxFrameBytes) return Garbage(fmt::format("it sent a frame of {} bytes", length));
  CHECK_LE(arrived, kFrameHeaderBytes + length) << "only the rest of one partial frame may be skipped";
  skipped_ = std::make_unique<SkippedFrame>();
  skipped_->head = std::move(head);
  skipped_->left = kFrameHeaderBytes + length - arrived;
  if (skipped_->left == 0) FinishSkip();  // no more data may come
}

void RpcConnection::FinishSkip() {
  std::unique_ptr<SkippedFrame> done = std::move(skipped_);
  AnswerOverloaded(std::string_view(done->head).substr(kFrameHeaderBytes));
}

size_t RpcConnection::Skip(std::string_view bytes) {
  size_t taken = std::min(bytes.size(), skipped_->left);
  if (skipped_->head.size() < kHeadBytes) {
    skipped_->head.append(bytes.substr(0, std::min(taken, kHeadBytes - skipped_->head.size())));
  }
  skipped_->left -= taken;
  if (skipped_->left == 0) FinishSkip();
  return taken;
}

void RpcConnection::ReleasePending() {
  if (pending_.capacity() > 0) std::string().swap(pending_);
  pending_consumed_ = 0;
  server_->account_.Release(static_cast<int64_t>(std::exchange(pending_reserved_, 0)));
}

void RpcConnection::OnFrame(std::string_view frame) {
  MessageHeader header;
  if (Status status = DecodeMessageHeader(&frame, &header); !status.ok()) [[unlikely]] {
    return Garbage(status.message());
  }
  server_->metrics_.requests_total.Add();
  if (header.type == apache::thrift::protocol::T_ONEWAY) return;  // no method is oneway
  RequestId id{this, next_++, header.seqid, header.protocol};
  if (header.type != apache::thrift::protocol::T_CALL) [[unlikely]] {
    return server_->ReplyException(id, header.method, TApplicationException::INVALID_MESSAGE_TYPE,
                                   "this server accepts only messages of type CALL");
  }
  if (server_->Exhausted() && server_->service_->LaneOf(header.method) == MemoryLane::kOrdinary) [[unlikely]] {
    return server_->ReplyOverloaded(id, header.method);
  }
  if (server_->stopping_) [[unlikely]] {
    api::KvError error;
    error.code = api::g_pando_constants.UNAVAILABLE;
    error.applied = api::g_pando_constants.APPLIED_NO;
    error.message = "the node is shutting down";
    error.retryable = true;
    error.retry_after_ms = 1000;
    return server_->ReplyError(id, header.method, error);
  }
  server_->service_->OnRequest({id, header.method, frame});
}

size_t RpcConnection::OnBadLength(std::string_view bytes, uint32_t length) {
  std::string_view first = bytes.substr(0, kFrameHeaderBytes);
  if (length == 0) return Garbage("it sent a frame of 0 bytes"), bytes.size();
  if (LooksLikeText(first)) {
    return Garbage(fmt::format("it sent text (\"{}...\"), not framed Thrift; is this an HTTP client?", first)),
           bytes.size();
  }
  auto top = static_cast<uint8_t>(first[0]);
  if (top == 0x80 || top == 0x82) return Garbage("it sent Thrift without frames; use TFramedTransport"), bytes.size();
  // Wait for the method name, which the error reply needs.
  if (bytes.size() < std::min<size_t>(kHeadBytes, kFrameHeaderBytes + length)) return 0;

  std::string_view head = bytes.substr(kFrameHeaderBytes);
  MessageHeader header;
  if (!DecodeMessageHeader(&head, &header).ok()) {
    return Garbage(fmt::format("it sent a frame of {} bytes that is not Thrift", length)), bytes.size();
  }
  server_->metrics_.bad_requests_total.Add();
  RequestId id{this, next_++, header.seqid, header.protocol};
  api::KvError error;
  error.code = api::g_pando_constants.TOO_LARGE;
  error.applied = api::g_pando_constants.APPLIED_NO;
  error.message = fmt::format("the frame has {} bytes; the limit is {} (max_frame_bytes). The connection is closed.",
                              length, kMaxFrameBytes);
  server_->ReplyError(id, header.method, error);
  CloseAfterReplies();
  return bytes.size();
}

void RpcConnection::AnswerOverloaded(std::string_view head) {
  MessageHeader header;
  if (Status status = DecodeMessageHeader(&head, &header); !status.ok()) return Garbage(status.message());
  RequestId id{this, next_++, header.seqid, header.protocol};
  server_->ReplyOverloaded(id, header.method);
}

void RpcConnection::RefuseFirstRequest(std::string_view bytes) {
  // This keeps little, so it does not count against the budget.
  pending_.append(bytes.substr(0, kMaxRefusedBytes - std::min(kMaxRefusedBytes, pending_.size())));
  if (pending_.size() < kFrameHeaderBytes) return;
  size_t whole = kFrameHeaderBytes + FrameLength(pending_);
  if (pending_.size() < std::min(whole, kHeadBytes)) return;
  std::string_view head = std::string_view(pending_).substr(kFrameHeaderBytes);
  MessageHeader header;
  if (Status status = DecodeMessageHeader(&head, &header); !status.ok()) return Garbage(status.message());
  // A hello that succeeds would promise that more requests are served.
  const bool control = header.method != "hello" && server_->service_->LaneOf(header.method) == MemoryLane::kControl;
  if (control && whole <= kMaxRefusedBytes) {
    if (pending_.size() < whole) return;
    // An operator must be able to look at the node. One such request is served.
    OnFrame(std::string_view(pending_).substr(kFrameHeaderBytes, whole - kFrameHeaderBytes));
    return CloseAfterReplies();
  }
  RequestId id{this, next_++, header.seqid, header.protocol};
  api::KvError error = server_->OverloadedError();
  error.message = fmt::format("the node has {} connections open, which is the limit set by --max_connections",
                              server_->options_.max_connections);
  server_->ReplyError(id, header.method, error);
  CloseAfterReplies();
}

void RpcConnection::Garbage(std::string_view why) {
  server_->metrics_.garbage_total.Add();
  server_->LogLimited(fmt::format("closing {}: {}", connection_->identity().address, why));
  CloseAfterReplies();
}

void RpcConnection::CloseAfterReplies() {
  if (state_ == State::kClosed) return;
  if (state_ == State::kRefused) --server_->refused_;
  state_ = State::kClosing;
  MarkDirty();
}

// -- replying

void RpcConnection::AllowOutOfOrder() {
  if (out_of_order_ || state_ == State::kClosed) return;
  out_of_order_ = true;
  if (!ring_) return;
  const uint32_t oldest = head_;
  for (uint32_t sequence = oldest; sequence != next_; ++sequence) {
    Slot& slot = ring_[sequence % server_->options_.max_requests];
    if (!slot.ready) continue;
    out_.append(slot.bytes);
    server_->GiveBuffer(std::move(slot.bytes));
    ++head_;
  }
  ring_.reset();
  ring_bytes_ = ring_capacity_ = 0;
  MarkDirty();
}

std::string* RpcConnection::BeginReply(uint32_t sequence) {
  DCHECK(out_of_order_ ? unanswered() > 0 : sequence - head_ < unanswered()) << "a request was answered twice";
  if (out_of_order_ || sequence == head_) {
    if (out_.capacity() <= std::string().capacity()) out_ = server_->TakeBuffer();
    return &out_;
  }
  uint32_t size = server_->options_.max_requests;
  if (!ring_) ring_ = std::make_unique<Slot[]>(size);
  Slot& slot = ring_[sequence % size];
  slot.bytes = server_->TakeBuffer();
  return &slot.bytes;
}

void RpcConnection::EndReply(uint32_t sequence) {
  if (!out_of_order_ && sequence != head_) {
    Slot& slot = ring_[sequence % server_->options_.max_requests];
    slot.ready = true;
    ring_bytes_ += slot.bytes.size();
    ring_capacity_ += slot.bytes.capacity();
    return Account();
  }
  ++head_;
  if (ring_) {
    for (Slot* slot; (slot = &ring_[head_ % server_->options_.max_requests])->ready; ++head_) {
      ring_bytes_ -= slot->bytes.size();
      ring_capacity_ -= slot->bytes.capacity();
      out_.append(slot->bytes);
      server_->GiveBuffer(std::move(slot->bytes));
      *slot = Slot();
    }
    if (unanswered() == 0) ring_.reset();
  }
  if (out_.size() >= kMaxTurnBytes) HandOver();
  Account();
  MarkDirty();
}

size_t RpcConnection::ReplyBytes() const {
  return out_.size() + ring_bytes_ + (connection_ ? connection_->unsent_bytes() : 0);
}

size_t RpcConnection::HeldBytes() const {
  const size_t unsent = connection_ ? connection_->unsent_bytes() : 0;
  const size_t slots = ring_ ? server_->options_.max_requests * sizeof(Slot) : 0;
  return out_.size() + ring_capacity_ + slots + unsent + (unsent > 0 ? handed_slack_ : 0);
}

void RpcConnection::Account() {
  const size_t held_bytes = HeldBytes();
  if (held_bytes > accounted_bytes_) {
    server_->account_.Force(static_cast<int64_t>(held_bytes - accounted_bytes_));
  } else {
    server_->account_.Release(static_cast<int64_t>(accounted_bytes_ - held_bytes));
  }
  accounted_bytes_ = held_bytes;
}

void RpcConnection::HandOver() {
  server_->metrics_.sent_bytes_total.Add(out_.size());
  const size_t slack = out_.capacity() <= kMaxTouchedSlack ? out_.capacity() - out_.size() : 0;
  handed_slack_ = connection_->unsent_bytes() > 0 ? std::max(handed_slack_, slack) : slack;
  connection_->Send(&out_);
  server_->GiveBuffer(std::exchange(out_, std::string()));
}

void RpcConnection::Flush() {
  if (state_ == State::kClosed) return;
  if (!out_.empty()) HandOver();
  Account();
  if (state_ == State::kClosing && unanswered() == 0 && !close_sent_) {
    close_sent_ = true;
    connection_->Close(false);
    return;
  }
  if (!paused_ || state_ != State::kOpen || !BelowLimit()) return;
  if (!HasTurnLeft()) return server_->ContinueInNextTurn(this);
  // Process the kept bytes first. They may bring the connection to a limit again, which pauses it
  // again.
  paused_ = false;
  server_->metrics_.paused_connections.Add(-1);
  ConsumePending();
  if (!paused_ && state_ == State::kOpen) connection_->ResumeReceive();
}

void RpcConnection::OnSent() {
  Account();
  if (paused_) MarkDirty();
  server_->service_->OnReplyRoom();
}

bool RpcConnection::HasRoom(uint32_t sequence, size_t call_bytes) const {
  if (state_ == State::kClosed) return true;
  size_t bytes = out_.size() + connection_->unsent_bytes();
  // Without out-of-order replies, early replies and other calls wait for the oldest request, so it
  // must not wait for them.
  if (out_of_order_ || sequence != head_) bytes += ring_bytes_ + running_ * call_bytes;
  return bytes < server_->options_.max_reply_bytes;
}

bool RpcConnection::AtLimit() const {
  const RpcOptions& options = server_->options_;
  const size_t reply_bytes = ReplyBytes();
  return unanswered() >= options.max_requests || running_ >= options.max_requests ||
         reply_bytes >= options.max_reply_bytes ||
         (reply_bytes > kMaxUnsentWhenExhausted && server_->Exhausted()) /* refusals would pile up */;
}

bool RpcConnection::BelowLimit() const {
  const RpcOptions& options = server_->options_;
  const size_t reply_bytes = ReplyBytes();
  return unanswered() <= options.max_requests / 2 && running_ <= options.max_requests / 2 &&
         reply_bytes <= options.max_reply_bytes / 2 &&
         (reply_bytes <= kMaxUnsentWhenExhausted || !server_->Exhausted());
}

bool RpcConnection::IsIdle() const {
  return state_ == State::kOpen && !close_sent_ && unanswered() == 0 && running_ == 0 && pending_.empty() &&
         !skipped_ && ReplyBytes() == 0 && received_bytes_ == received_when_active_;
}

// Stops receiving. From now on only Flush processes requests, starting with the kept bytes. Flush
// must run in this turn in any case: memory is shared with other reactors, so the limit may no
// longer apply. Everything else that can end the limit (a reply sent, a call ended) marks the
// connection as well.
void RpcConnection::Pause() {
  if (!paused_) {
    paused_ = true;
    server_->metrics_.paused_connections.Add(1);
    connection_->PauseReceive();
  }
  MarkDirty();
}

void RpcConnection::MarkDirty() {
  if (!dirty_) server_->MarkDirty(this);
}

void RpcConnection::OnClosed(const Status& /*reason*/) {
  if (state_ == State::kRefused) --server_->refused_;
  if (paused_) server_->metrics_.paused_connections.Add(-1);
  paused_ = false;
  state_ = State::kClosed;
  server_->NoteClosed();
  connection_ = nullptr;
  skipped_.reset();
  ReleasePending();
  std::string().swap(out_);
  // From here on only the number of unanswered requests matters. The requests in the ring that are
  // ready count as answered.
  if (ring_)
    head_ += static_cast<uint32_t>(std::count_if(ring_.get(), ring_.get() + server_->options_.max_requests,
                                                 [](const Slot& slot) { return slot.ready; }));
  ring_.reset();
  ring_bytes_ = ring_capacity_ = 0;
  Account();
  server_->service_->OnReplyRoom();
  if (Forgotten()) server_->Remove(this);
}

}  // namespace pando
