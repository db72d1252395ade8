#include "src/replication/peer_link.h"

#include <algorithm>
#include <utility>

#include "src/base/address.h"
#include "src/io/timed_wait.h"
#include "src/replication/peer_links.h"

namespace pando::replication {
namespace {

// Of a frame with units of the log. There are only a few in all links.
constexpr size_t kFirstDataBytes = 16 << 10;
// After there was no memory for a message, whoever waits for room waits so long.
constexpr Nanos kNoMemoryPauseNs = 20 * kMillisecond;
// The same failure is logged again after this time.
constexpr Nanos kLogAgainNs = 30 * kSecond;

}  // namespace

std::string PeerAddress::ToString() const {
  return fmt::format("node {}, reactor {} ({})", node, reactor, FormatHostPort(host, port));
}

PeerLink::PeerLink(PeerLinks* links, PeerAddress address)
    : links_(links),
      address_(std::move(address)),
      wake_(links->reactor_),
      why_down_(Code::kUnavailable, "there was no attempt to connect yet"),
      reader_(&links->account_),
      control_(&links->account_, links->options_.max_control_bytes, MemoryLane::kControl),
      data_(&links->account_, links->options_.max_queue_bytes, MemoryLane::kOrdinary, kFirstDataBytes),
      backoff_ns_(links->options_.min_backoff_ns) {
  links_->metrics_.links.Add(1);
}

PeerLink::~PeerLink() {
  CHECK(connection_ == nullptr) << "a link was destroyed before its connection had ended";
  links_->metrics_.links.Add(-1);
}

// -- keeping it up

Task<void> PeerLink::Run() {
  const PeerOptions& options = links_->options_;
  Reactor& reactor = links_->reactor_;
  while (!stopping_) {
    const Status why = co_await ConnectOnce();
    if (stopping_) break;
    why_down_ = why;
    // Half of the pause is random, so that nodes which have lost each other do not meet in step.
    const Nanos pause_ns = backoff_ns_ / 2 + static_cast<Nanos>(reactor.Random() % (backoff_ns_ / 2 + 1));
    backoff_ns_ = std::min(2 * backoff_ns_, options.max_backoff_ns);
    const Nanos from_ns = reactor.NowNs();
    // RetryNow shortens the pause, but two nodes that accept and lose each other in turn must pause too.
    co_await WaitUntil(reactor, wake_, from_ns + std::min(pause_ns, options.min_backoff_ns),
                       [this] { return stopping_; });
    co_await WaitUntil(reactor, wake_, from_ns + pause_ns, [this] { return stopping_ || retry_now_; });
    retry_now_ = false;
  }
}

Task<Status> PeerLink::ConnectOnce() {
  const PeerOptions& options = links_->options_;
  PeerHello hello;
  hello.cluster_id = options.cluster_id;
  hello.from = options.node;
  hello.to = address_.node;
  hello.from_reactor = options.reactor;
  hello.to_reactor = address_.reactor;
  hello.incarnation = options.incarnation;
  hello.protocol_min = options.protocol_min;
  hello.protocol_max = options.protocol_max;
  hello.protocol = protocol_ = links_->protocol_;
  if (protocol_ < options.protocol_min || protocol_ > options.protocol_max) {
    Status why = Error(Code::kVersion,
                       "the cluster speaks version {} of the peer protocol, but this build speaks only {} to {}; "
                       "install a build that speaks it",
                       protocol_, options.protocol_min, options.protocol_max);
    Report(why, /*was_up=*/false);
    co_return why;
  }
  Result<Connection*> connection =
      co_await links_->reactor_.Connect(address_.host, address_.port, options.connect_limit_ns);
  if (!connection.ok()) {
    links_->metrics_.connect_failed_total.Add();
    if (!stopping_) Report(connection.status(), /*was_up=*/false);
    co_return connection.TakeStatus();
  }
  const Nanos began_ns = since_ns_ = links_->reactor_.NowNs();
  connection_ = links_->Filtered(*connection, options.connect_filters);
  connection_->SetHandler(this);
  reader_.Reset();
  why_broken_ = Status();
  peer_incarnation_ = 0;
  SetState(State::kGreeting);
  if (stopping_) Break(Error(Code::kAborted, "this link is not needed any more"));
  std::string bytes = HelloFrame(hello);
  if (state_ == State::kGreeting) connection_->Send(&bytes);
  while (connection_ != nullptr) co_await wake_.Wait();
  // One that was accepted, but did not last, is no reason to try again soon.
  if (links_->reactor_.NowNs() - began_ns >= options.max_backoff_ns) backoff_ns_ = options.min_backoff_ns;
  co_return why_broken_;
}

void PeerLink::Stop() {
  stopping_ = true;
  Break(Error(Code::kAborted, "this link is not needed any more"));
  wake_.NotifyAll();
}

void PeerLink::Restart(const std::string& why) {
  Break(Error(Code::kAborted, "this side connects anew: {}", why));
  RetryNow();
}

void PeerLink::RetryNow() {
  if (state_ == State::kUp || state_ == State::kGreeting) return;
  retry_now_ = true;
  wake_.NotifyAll();
}

void PeerLink::SawIncarnation(uint64_t incarnation) {
  if (state_ != State::kUp || peer_incarnation_ >= incarnation) return;
  Restart(fmt::format("process {} of the node has started, and this is a connection to process {}", incarnation,
                      peer_incarnation_));
}

void PeerLink::Watch(Nanos now_ns) {
  const PeerOptions& options = links_->options_;
  if (state_ == State::kGreeting && now_ns - since_ns_ >= options.hello_limit_ns) {
    links_->metrics_.timeout_total.Add();
    return Break(
        Error(Code::kDeadline, "it did not answer the hello within {} ms", options.hello_limit_ns / kMillisecond));
  }
  if (state_ != State::kUp) return;
  if (ping_sent_ns_ != 0) {
    // Who does not read does not see the ping either (LK4).
    if (now_ns - ping_sent_ns_ < options.ping_limit_ns) return;
    links_->metrics_.timeout_total.Add();
    return Break(Error(Code::kDeadline, "it did not answer a ping within {} ms, and had not taken {} bytes",
                       options.ping_limit_ns / kMillisecond, connection_->unsent_bytes()));
  }
  if (now_ns < next_ping_ns_) return;
  ping_sent_ns_ = now_ns;
  std::string ping = EmptyFrame(PeerFrame::kPing);
  connection_->Send(&ping);
}

// -- sending

bool PeerLink::Send(uint32_t partition, const Message& message) {
  if (state_ != State::kUp) return false;
  SendLane& lane = IsControl(message) ? control_ : data_;
  const SendLane::Answer answer = lane.Append(protocol_, partition, message);
  if (answer == SendLane::Answer::kNoMemory) no_memory_until_ns_ = links_->reactor_.NowNs() + kNoMemoryPauseNs;
  if (answer != SendLane::Answer::kTaken) return false;
  links_->MarkDirty(this);
  return true;
}

bool PeerLink::HasRoom() const {
  return state_ == State::kUp && data_.reserved_bytes() <= links_->options_.max_queue_bytes / 2;
}

void PeerLink::Flush() {
  if (state_ == State::kUp) ReleaseTaken(connection_->unsent_bytes());
  while (state_ == State::kUp && connection_->unsent_bytes() < links_->options_.max_handed_bytes) {
    if (control_.empty() && data_.empty()) break;
    HandOver(control_.empty() ? data_.Pop() : control_.Pop());
  }
  if (HasRoom()) links_->room_.NotifyAll();
}

void PeerLink::HandOver(SendLane::Frame frame) {
  SealFrame(PeerFrame::kMessages, &frame.bytes);
  links_->metrics_.sent_messages_total.Add(frame.messages);
  links_->metrics_.sent_bytes_total.Add(frame.bytes.size());
  handed_.push_back({handed_bytes_ += frame.bytes.size(), frame.reserved_bytes});
  connection_->Send(&frame.bytes);
}

// A link that always has something to send is never told that all has left.
void PeerLink::ReleaseTaken(size_t unsent_bytes) {
  size_t reserved_bytes = 0;
  for (; !handed_.empty() && handed_.front().end + unsent_bytes <= handed_bytes_; handed_.pop_front()) {
    reserved_bytes += handed_.front().reserved_bytes;
  }
  links_->account_.Release(static_cast<int64_t>(reserved_bytes));
}

void PeerLink::OnSent() {
  ReleaseTaken(0);
  if (!control_.empty() || !data_.empty()) links_->MarkDirty(this);
}

void PeerLink::ReleaseAll() {
  links_->metrics_.dropped_messages_total.Add(control_.Clear() + data_.Clear());
  ReleaseTaken(0);
}

// -- receiving

void PeerLink::OnData(std::span<const char> bytes) {
  if (state_ == State::kClosing) return;
  links_->metrics_.received_bytes_total.Add(bytes.size());
  const Status status = reader_.Take({bytes.data(), bytes.size()},
                                     [this](PeerFrame kind, std::string_view body) { return OnFrame(kind, body); });
  if (status.ok()) return;
  links_->metrics_.garbage_total.Add();
  Break(status);
}

bool PeerLink::OnFrame(PeerFrame kind, std::string_view body) {
  if (state_ == State::kGreeting && kind == PeerFrame::kHelloReply) {
    OnReply(body);
  } else if (state_ == State::kUp && kind == PeerFrame::kPong && ping_sent_ns_ != 0) {
    ping_sent_ns_ = 0;
    next_ping_ns_ = links_->reactor_.NowNs() + links_->options_.ping_period_ns;
  } else {
    links_->metrics_.garbage_total.Add();
    Break(Error(Code::kCorruption, "it sent a frame of kind {}, which is not an answer to anything",
                static_cast<int>(kind)));
  }
  return state_ != State::kClosing;
}

void PeerLink::OnReply(std::string_view body) {
  Result<HelloReply> reply = DecodeHelloReply(body);
  if (!reply.ok()) {
    links_->metrics_.garbage_total.Add();
    return Break(reply.TakeStatus());
  }
  if (reply->verdict != HelloVerdict::kAccepted) {
    links_->metrics_.refused_by_peer_total.Add();
    return Break(Error(Code::kUnavailable, "it refuses this node: {}", reply->reason));
  }
  if (const uint64_t newest = links_->NewestIncarnation(address_.node); reply->incarnation < newest) {
    return Break(Error(Code::kUnavailable, "process {} of the node answers, but process {} of it has been seen",
                       reply->incarnation, newest));
  }
  peer_incarnation_ = reply->incarnation;
  ping_sent_ns_ = 0;
  next_ping_ns_ = links_->reactor_.NowNs() + links_->options_.ping_period_ns;
  no_memory_until_ns_ = 0;
  why_down_ = Status();
  links_->metrics_.connected_total.Add();
  SetState(State::kUp);
  logged_.clear();
  LOG(INFO) << "connected with " << address_.ToString();
  links_->EndOlder(address_.node, peer_incarnation_);
  links_->room_.NotifyAll();
  links_->handler_->OnConnected(address_.node);
}

// -- ending

void PeerLink::Break(Status why) {
  if (state_ == State::kDown || state_ == State::kClosing) return;
  links_->room_.NotifyAll();  // there will be none
  if (!stopping_) Report(why, state_ == State::kUp);
  why_down_ = why;
  why_broken_ = std::move(why);
  SetState(State::kClosing);
  connection_->Close(/*now=*/true);
}

void PeerLink::OnClosed(const Status& reason) {
  if (state_ != State::kClosing) {
    why_broken_ = reason.ok() ? Error(Code::kAborted, "it closed the connection") : reason;
    why_down_ = why_broken_;
    Report(why_broken_, state_ == State::kUp);
  }
  connection_ = nullptr;
  ReleaseAll();
  SetState(State::kDown);
  wake_.NotifyAll();
  links_->room_.NotifyAll();  // there will be none
}

void PeerLink::SetState(State state) {
  const bool was_up = up();
  state_ = state;
  if (up() == was_up) return;
  links_->metrics_.links_up.Add(up() ? 1 : -1);
  if (!up()) links_->metrics_.lost_total.Add();
}

void PeerLink::Report(const Status& why, bool was_up) {
  const Nanos now_ns = links_->reactor_.NowNs();
  if (!was_up && why.message() == logged_ && now_ns < next_log_ns_) return;
  logged_ = why.message();
  next_log_ns_ = now_ns + kLogAgainNs;
  LOG(WARNING) << (was_up ? "lost the link to " : "no link to ") << address_.ToString() << ": " << why.message();
}

}  // namespace pando::replication
