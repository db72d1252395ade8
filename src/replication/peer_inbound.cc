#include "src/replication/peer_inbound.h"

#include "src/replication/peer_links.h"
#include "src/replication/send_lane.h"

namespace pando::replication {
namespace {

// Who pings without reading the pongs gets no more of them.
constexpr size_t kMaxUnreadBytes = 1024;

}  // namespace

PeerInbound::PeerInbound(PeerLinks* links, Connection* connection)
    : links_(links),
      connection_(connection),
      reader_(&links->account_),
      since_ns_(links->reactor_.NowNs()),
      received_ns_(since_ns_) {}

void PeerInbound::OnData(std::span<const char> bytes) {
  if (state_ == State::kClosing) return;
  links_->metrics_.received_bytes_total.Add(bytes.size());
  received_ns_ = links_->reactor_.NowNs();
  const uint64_t frames = reader_.frames(), skipped = reader_.skipped();
  const Status status = reader_.Take({bytes.data(), bytes.size()},
                                     [this](PeerFrame kind, std::string_view body) { return OnFrame(kind, body); });
  links_->metrics_.dropped_frames_total.Add(reader_.skipped() - skipped);
  if (!status.ok() && state_ != State::kClosing) Garbage(status.message());
  if (!reader_.partial()) {
    partial_since_ns_ = 0;
  } else if (partial_since_ns_ == 0 || reader_.frames() != frames) {
    partial_since_ns_ = received_ns_;
  }
}

bool PeerInbound::OnFrame(PeerFrame kind, std::string_view body) {
  if (state_ == State::kStranger) {
    return kind == PeerFrame::kHello ? OnHello(body) : Garbage("its first frame is not a hello");
  }
  if (state_ == State::kWaiting) return true;
  switch (kind) {
    case PeerFrame::kMessages: return hello_.guard ? Garbage("a guard sent messages of replicas") : OnMessages(body);
    case PeerFrame::kDeathNotice:
      return hello_.guard ? OnDeathNotice(body) : Garbage("a death notice came from the node itself, not its guard");
    case PeerFrame::kPing: return body.empty() ? OnPing() : Garbage("its ping is not empty");
    default: return Garbage(fmt::format("it sent a frame of kind {} after its hello", static_cast<int>(kind)));
  }
}

bool PeerInbound::OnHello(std::string_view body) {
  Result<PeerHello> hello = DecodeHello(body);
  if (!hello.ok()) return Garbage(hello.status().message());
  hello_ = *std::move(hello);
  state_ = State::kWaiting;
  Admit();
  return state_ != State::kClosing;
}

void PeerInbound::Admit() {
  const HelloReply reply = links_->Judge(hello_);
  if (reply.verdict == HelloVerdict::kAccepted && links_->IsTaken(*this)) return;
  std::string bytes = HelloReplyFrame(reply);
  connection_->Send(&bytes);
  if (reply.verdict != HelloVerdict::kAccepted) {
    links_->metrics_.refused_total.Add();
    links_->LogLimited(fmt::format("refusing {}: {}", connection_->identity().address, reply.reason));
    state_ = State::kClosing;
    connection_->Close(/*now=*/false);
    return;
  }
  state_ = State::kAccepted;
  received_ns_ = links_->reactor_.NowNs();  // whatever it waited for
  reader_.SetLimit(hello_.guard ? kMaxSmallFrameBytes : kMaxPeerFrameBytes);
  links_->OnAccepted(this);
}

bool PeerInbound::OnMessages(std::string_view body) {
  // The messages hold a copy of what they carry.
  MemoryGrant grant(&links_->account_,
                    body.size() <= SendLane::kFrameBytes ? MemoryLane::kControl : MemoryLane::kOrdinary);
  if (!grant.TryGrow(body.size())) {
    links_->metrics_.dropped_frames_total.Add();
    return true;
  }
  MessagesReader messages(hello_.protocol, body);
  while (true) {
    Result<bool> more = messages.Next();
    if (!more.ok()) return Garbage(more.status().message());
    if (!*more) return true;
    links_->metrics_.received_messages_total.Add();
    links_->handler_->OnMessage(messages.partition, hello_.from, messages.message);
    if (state_ != State::kAccepted) return false;  // the handler knows that this node is not to be heard
  }
}

bool PeerInbound::OnDeathNotice(std::string_view body) {
  Result<NodeDeath> death = DecodeDeathNotice(body);
  if (!death.ok()) return Garbage(death.status().message());
  if (death->node != hello_.from) {
    return Garbage(fmt::format("a guard of node {} sent the death notice of node {}", hello_.from, death->node));
  }
  if (death->incarnation != hello_.incarnation) {
    return Garbage(fmt::format("the guard of process {} sent the death notice of process {}", hello_.incarnation,
                               death->incarnation));
  }
  links_->handler_->OnDeathNotice(death->node, death->incarnation);
  Close();  // it has nothing more to say
  return false;
}

bool PeerInbound::OnPing() {
  if (connection_->unsent_bytes() > kMaxUnreadBytes) return true;
  std::string pong = EmptyFrame(PeerFrame::kPong);
  connection_->Send(&pong);
  return true;
}

bool PeerInbound::Garbage(std::string_view why) {
  links_->metrics_.garbage_total.Add();
  links_->LogLimited(fmt::format("closing {}: {}", Who(), why));
  Close();
  return false;
}

void PeerInbound::TimeOut(std::string_view why) {
  links_->metrics_.timeout_total.Add();
  links_->LogLimited(fmt::format("closing {}: {}", Who(), why));
  Close();
}

void PeerInbound::Watch(Nanos now_ns) {
  const PeerOptions& options = links_->options_;
  if (state_ == State::kClosing) return;
  if (stranger() && now_ns - since_ns_ >= options.hello_limit_ns) {
    return TimeOut(waiting() ? fmt::format("it says that it is reactor {} of process {} of node {}, whose connection "
                                           "is still heard from",
                                           hello_.from_reactor, hello_.incarnation, hello_.from)
                             : fmt::format("it sent no hello within {} ms", options.hello_limit_ns / kMillisecond));
  }
  if (partial_since_ns_ != 0 && now_ns - partial_since_ns_ >= options.frame_limit_ns) {
    return TimeOut(fmt::format("it did not complete a frame within {} ms", options.frame_limit_ns / kMillisecond));
  }
  const Nanos silent_ns = options.ping_period_ns + options.ping_limit_ns;
  if (now_ns - received_ns_ >= silent_ns) {
    return TimeOut(fmt::format("it was silent for {} ms", silent_ns / kMillisecond));
  }
}

void PeerInbound::Close() {
  state_ = State::kClosing;
  connection_->Close(/*now=*/true);  // also if a refusal is still leaving
}

void PeerInbound::OnClosed(const Status& /*reason*/) { links_->Remove(this); }

std::string PeerInbound::Who() const {
  const std::string& address = connection_->identity().address;
  if (!accepted()) return address;
  return fmt::format("{} ({}node {}, reactor {})", address, hello_.guard ? "the guard of " : "", hello_.from,
                     hello_.from_reactor);
}

}  // namespace pando::replication
