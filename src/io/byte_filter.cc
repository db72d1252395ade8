#include "src/io/byte_filter.h"

#include <utility>

#include "src/io/append_sparely.h"

namespace pando {
namespace {

// The most that a string which waits to be sent may have unused, besides an eighth of its size.
constexpr size_t kMaxSlackBytes = 512;

// A Connection whose bytes go through a filter. It is the handler of the connection under it, and
// frees itself after that one's last call.
class FilteredConnection final : public Connection, private ConnectionHandler, private Timer {
 public:
  FilteredConnection(Reactor& reactor, Connection* under, std::unique_ptr<ByteFilter> filter,
                     const FilterOptions& options)
      : Connection(under->identity()), reactor_(reactor), under_(under), filter_(std::move(filter)), options_(options) {
    on_fire = [](Timer* t) { static_cast<FilteredConnection*>(t)->OnHandshakeLimit(); };
  }
  FilteredConnection(const FilteredConnection&) = delete;
  FilteredConnection& operator=(const FilteredConnection&) = delete;

  void SetHandler(ConnectionHandler* handler) override;
  void Send(std::string* bytes) override;
  size_t unsent_bytes() const override { return under_->unsent_bytes() + held_.size(); }
  uint64_t acknowledged_bytes() const override { return under_->acknowledged_bytes(); }
  void PauseReceive() override;
  void ResumeReceive() override;
  void Close(bool now) override;

 private:
  // kNew -> kHandshake -> kOpen -> kEnded. kEnded: the connection under this one has been told to
  // close, and nothing moves through the filter any more. From each state kEnded can follow.
  enum class State : uint8_t { kNew, kHandshake, kOpen, kEnded };

  void OnData(std::span<const char> bytes) override;
  void OnSent() override;
  void OnClosed(const Status& reason) override;
  void OnHandshakeLimit();
  void OnEstablished();
  // Takes what has arrived. Returns what is wrong with it.
  Status Decode(std::string_view bytes, std::string* plain);
  // Makes reserved_bytes_ what the filter keeps now.
  Status Reserve();
  Status Encode(std::string_view plain);
  void SendUnder(std::string wire);
  void EndOrderly();
  void Fail(const Status& why, bool now);
  void End(bool now);
  void LeaveHandshake();
  Status Named(const Status& why) const { return Error(why.code(), "{}: {}", identity().address, why.message()); }

  Reactor& reactor_;
  Connection* const under_;
  const std::unique_ptr<ByteFilter> filter_;
  const FilterOptions options_;
  ConnectionHandler* handler_ = nullptr;
  State state_ = State::kNew;
  bool paused_ = false;        // by the handler
  bool close_wanted_ = false;  // Close(false) waits for the handshake, because of held_
  std::string held_;           // plain bytes that wait for the handshake
  Status failure_;             // why this side has ended the connection, if it was an error
  size_t reserved_bytes_ = 0;  // for filter_ (BF2)
};

void FilteredConnection::SetHandler(ConnectionHandler* handler) {
  handler_ = handler;
  if (state_ != State::kNew) return;
  state_ = State::kHandshake;
  if (options_.metrics) options_.metrics->handshakes.Add(1);
  reactor_.ArmTimer(this, reactor_.NowNs() + options_.handshake_limit_ns);
  under_->SetHandler(this);
  std::string wire;
  Status status = filter_->Start(&wire);
  SendUnder(std::move(wire));
  if (status.ok()) status = Reserve();
  if (!status.ok()) return Fail(status, status.code() == Code::kOverloaded);
  if (filter_->established()) OnEstablished();
}

void FilteredConnection::Send(std::string* bytes) {
  if (bytes->empty()) return;
  if (state_ == State::kOpen) {
    if (Status status = Encode(*bytes); !status.ok()) Fail(status, /*now=*/false);
  } else if (state_ != State::kEnded && !close_wanted_) {
    if (held_.empty()) {
      held_.swap(*bytes);
    } else {
      AppendSparely(&held_, *bytes);
    }
  }
  bytes->clear();
}

void FilteredConnection::PauseReceive() {
  paused_ = true;
  if (state_ == State::kOpen) under_->PauseReceive();
}

void FilteredConnection::ResumeReceive() {
  paused_ = false;
  if (state_ == State::kOpen) under_->ResumeReceive();
}

void FilteredConnection::Close(bool now) {
  if (state_ == State::kEnded) {
    if (now) under_->Close(true);  // what was to leave first is dropped
    return;
  }
  if (now) return End(/*now=*/true);
  if (!held_.empty()) {
    close_wanted_ = true;
  } else {
    EndOrderly();
  }
}

// -- what arrives

void FilteredConnection::OnData(std::span<const char> bytes) {
  if (state_ == State::kEnded) return;
  std::string plain;
  Status status = Decode({bytes.data(), bytes.size()}, &plain);
  if (status.ok() && state_ == State::kHandshake && filter_->established()) OnEstablished();
  // What came before an error, or before the end, is valid.
  if (!plain.empty() && state_ == State::kOpen && handler_) handler_->OnData(plain);
  if (state_ == State::kEnded) return;
  if (!status.ok()) return Fail(status, /*now=*/status.code() == Code::kOverloaded);
  if (filter_->ended()) {
    failure_ = Error(Code::kAborted, "{} closed the connection", identity().address);
    End(/*now=*/true);
  }
}

Status FilteredConnection::Decode(std::string_view bytes, std::string* plain) {
  std::string wire;
  const size_t kept = reserved_bytes_;
  Status status = filter_->Receive(bytes, plain, &wire);
  CHECK_LE(plain->size(), kept + bytes.size()) << "a filter returned more than has arrived";
  SendUnder(std::move(wire));
  return status.ok() ? Reserve() : status;
}

Status FilteredConnection::Reserve() {
  const size_t kept = filter_->held_bytes();
  if (kept > kMaxFilterBytes) {
    return Error(Code::kCorruption, "the filter would have to keep {} bytes, but the limit is {}", kept,
                 kMaxFilterBytes);
  }
  if (options_.memory) {
    const auto more = static_cast<int64_t>(kept) - static_cast<int64_t>(reserved_bytes_);
    if (more > 0 && !options_.memory->TryReserve(more)) {
      return Error(Code::kOverloaded, "the node has no memory for {} more bytes of the filter", more);
    }
    if (more < 0) options_.memory->Release(-more);
  }
  reserved_bytes_ = kept;
  return {};
}

void FilteredConnection::OnEstablished() {
  LeaveHandshake();
  if (options_.metrics) options_.metrics->established_total.Add();
  state_ = State::kOpen;
  SetPrincipal(filter_->principal());
  if (paused_) under_->PauseReceive();
  const std::string held = std::exchange(held_, std::string());
  if (!held.empty()) {
    if (Status status = Encode(held); !status.ok()) return Fail(status, /*now=*/false);
  }
  if (close_wanted_) EndOrderly();
}

void FilteredConnection::OnSent() {
  if (state_ == State::kOpen && handler_) handler_->OnSent();
}

void FilteredConnection::OnClosed(const Status& reason) {
  Status why = failure_;
  if (why.ok()) why = reason;
  if (state_ == State::kHandshake) {
    LeaveHandshake();
    if (options_.metrics) options_.metrics->failed_total.Add();
    why = Error(Code::kAborted, "{}; the handshake was not complete", reason.message());
  } else if (state_ == State::kOpen) {
    // Neither side has said that nothing follows (BF4).
    if (Status cut = filter_->OnCut(); !cut.ok()) why = Error(cut.code(), "{}; {}", reason.message(), cut.message());
  }
  state_ = State::kEnded;
  if (options_.memory) options_.memory->Release(static_cast<int64_t>(std::exchange(reserved_bytes_, 0)));
  if (ConnectionHandler* handler = std::exchange(handler_, nullptr)) handler->OnClosed(why);
  delete this;
}

// -- what leaves

Status FilteredConnection::Encode(std::string_view plain) {
  std::string wire;
  RETURN_IF_ERROR(filter_->Send(plain, &wire));
  SendUnder(std::move(wire));
  return {};
}

void FilteredConnection::SendUnder(std::string wire) {
  // The string becomes the connection's queue, whose memory is counted by its size.
  if (wire.capacity() - wire.size() > kMaxSlackBytes + wire.size() / 8) wire = std::string(std::string_view(wire));
  if (!wire.empty()) under_->Send(&wire);
}

// -- ending

void FilteredConnection::EndOrderly() {
  if (state_ == State::kOpen) {
    std::string wire;
    filter_->End(&wire);
    SendUnder(std::move(wire));
  }
  End(/*now=*/false);
}

void FilteredConnection::Fail(const Status& why, bool now) {
  if (state_ == State::kHandshake && options_.metrics) options_.metrics->failed_total.Add();
  failure_ = Named(why);
  End(now);
}

void FilteredConnection::End(bool now) {
  if (state_ == State::kNew) under_->SetHandler(this);  // for its last call
  if (state_ == State::kHandshake) LeaveHandshake();
  state_ = State::kEnded;
  std::string().swap(held_);
  under_->Close(now);
}

void FilteredConnection::LeaveHandshake() {
  reactor_.CancelTimer(this);
  if (options_.metrics) options_.metrics->handshakes.Add(-1);
}

void FilteredConnection::OnHandshakeLimit() {
  Fail(Error(Code::kDeadline, "the handshake was not complete after {} ms", options_.handshake_limit_ns / kMillisecond),
       /*now=*/true);
}

}  // namespace

Connection* AddFilter(Reactor& reactor, Connection* connection, std::unique_ptr<ByteFilter> filter,
                      const FilterOptions& options) {
  return new FilteredConnection(reactor, connection, std::move(filter), options);
}

}  // namespace pando
