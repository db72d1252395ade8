// UringNetwork is the socket half of UringReactor. All connections receive with multishot receives
// into one ring of provided buffers, and each connection has at most one send in flight. A listener
// is polled, and ready connections are accepted one call at a time, because a multishot accept
// would take descriptors for a whole backlog before they could be counted.
//
// Two mechanisms detect a peer that has vanished silently: keep-alive probes when nothing is in
// flight, and TCP_USER_TIMEOUT when sent data is not acknowledged.
//
// Threads: one reactor.
//
// Invariants
//   S1  Handlers are called only from completions, timers and Flush, that is, from the loop.
//   S2  Only Flush, the last network step of a turn, frees connections and listeners, and only once
//       the kernel holds none of their operations. All other functions just mark them. No function
//       can therefore be left with a pointer to an object that one of its callees has freed.
//   S3  A provided buffer goes back to the kernel as soon as OnData returns.
//   S4  Closing takes bounded time: queued bytes have drain_limit_ns to leave, and the peer then
//       has linger_limit_ns to read them, or less when a new connection needs the place (S5).
//   S6  An accepted connection whose receive is paused ends once its peer has gone.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "src/io/connection_budget.h"
#include "src/io/reactor.h"
#include "src/io/uring_core.h"

namespace pando {

class UringNetwork;
struct SocketAddress;

class UringConnection final : public Connection {
 public:
  void SetHandler(ConnectionHandler* handler) override;
  void Send(std::string* bytes) override;
  size_t unsent_bytes() const override { return pending_.size() + sending_.size() - sent_; }
  uint64_t acknowledged_bytes() const override;
  void PauseReceive() override;
  void ResumeReceive() override;
  void Close(bool now) override;

 private:
  friend class UringNetwork;
  // kOpen -> kDraining -> kLingering -> kDying.
  //   kDraining   Close was called; the queued bytes leave.
  //   kLingering  Our side is shut down. The peer's bytes are discarded, so that no reset overtakes
  //               our last reply.
  //   kDying      The connection waits until the kernel holds none of its operations, then Flush
  //               frees it.
  // The handler gets OnClosed when the connection leaves kDraining, or when the peer ends it in
  // kOpen.
  enum class State : uint8_t { kOpen, kDraining, kLingering, kDying };
  struct LingerTimer : Timer {
    UringConnection* connection = nullptr;
  };

  UringConnection(UringNetwork* network, int fd, Identity identity, ConnectionBudget* budget);
  const std::string& peer() const { return identity_.address; }

  UringNetwork* network_;
  const int fd_;
  ConnectionBudget* const budget_;  // this connection holds a place in it; may be null
  ConnectionHandler* handler_ = nullptr;
  State state_ = State::kOpen;
  bool receive_armed_ = false;  // the kernel holds a receive operation
  bool receive_cancelled_ = false;
  bool receive_ended_ = false;  // the peer has sent end of file
  bool send_armed_ = false;     // the kernel holds a send operation on sending_
  bool hangup_armed_ = false;   // the kernel tells once the peer is gone
  bool paused_ = false;
  bool close_now_ = false;  // Close(true) was called: drop the queued bytes
  bool on_flush_list_ = false;
  std::string pending_;  // queued while a send is in flight
  std::string sending_;
  size_t sent_ = 0;  // how much of sending_ the kernel has taken
  LingerTimer timer_;
  std::list<UringConnection*>::iterator lingering_at_;  // valid in kLingering
  size_t list_index_ = 0;
};

struct UringNetworkOptions {
  unsigned receive_buffers = 256;  // a power of two; allocated by the first Listen or Connect
  unsigned receive_buffer_bytes = 16u << 10;
  Nanos drain_limit_ns = 5 * kSecond;
  Nanos linger_limit_ns = kSecond;
  // A connection ends after this long without a sign of life from the peer. Rounded down to whole
  // seconds, and at least two.
  Nanos peer_timeout_ns = 60 * kSecond;
};

class UringNetwork {
 public:
  UringNetwork(UringCore* core, const UringNetworkOptions& options)
      : core_(core),
        options_(options),
        buffer_count_(options.receive_buffers),
        buffer_bytes_(options.receive_buffer_bytes) {}
  ~UringNetwork();

  Result<uint16_t> Listen(const ListenOptions& options, AcceptHandler* handler);
  void StopListening(AcceptHandler* handler);
  Task<Result<Connection*>> Connect(std::string host, uint16_t port, Nanos timeout_ns);

  void OnCompletion(UringTag tag, void* owner, int32_t result, uint32_t flags);
  // Starts the sends, receives and closes that the turn asked for. Called once per turn, after all
  // other network work.
  void Flush();
  bool has_work() const { return !flush_list_.empty() || listeners_to_free_; }
  // Shuts down all sockets and drops all handlers. Completions must still be dispatched until
  // in_flight() is 0.
  void Shutdown();
  size_t in_flight() const { return in_flight_; }

 private:
  friend class UringConnection;
  struct Listener : Timer {
    UringNetwork* network = nullptr;
    int fd = -1;
    AcceptHandler* handler = nullptr;
    ListenerKind kind = ListenerKind::kClient;
    ConnectionBudget* budget = nullptr;  // of that kind; null: no limit
    bool poll_armed = false;
    bool stopping = false;  // fd is closed and set to -1 once the kernel holds no poll
    std::string address;
  };
  struct ConnectOp;

  Status EnsureBuffers();
  void RecycleBuffer(unsigned id);
  Result<int> MakeSocket(const SocketAddress& address) const;
  // `listener` is null if this process opened the connection.
  UringConnection* AddConnection(int fd, const Listener* listener);
  void MarkForFlush(UringConnection* c);
  void FlushConnection(UringConnection* c);
  void StartSend(UringConnection* c);
  void ArmReceive(UringConnection* c);
  void OnReceive(UringConnection* c, int32_t result, uint32_t flags);
  void ArmHangup(UringConnection* c);
  void OnHangup(UringConnection* c);
  void OnSend(UringConnection* c, int32_t result);
  void ArmPoll(Listener* listener);
  void OnPoll(Listener* listener);
  void AcceptReady(Listener* listener);
  // Returns false when no more connections can be accepted now.
  bool AcceptOne(Listener* listener);
  void CloseIfStopped(Listener* listener);
  // Ends connections that only linger, those that have done so for longest first. Returns whether
  // places of the budget will be free soon.
  bool EndLingering(const ConnectionBudget* budget);
  void Drain(UringConnection* c);
  void StartLinger(UringConnection* c);
  // Tells the handler that the connection is closed, and moves to kDying.
  void End(UringConnection* c, const Status& reason);
  void Notify(UringConnection* c, const Status& reason);
  void Die(UringConnection* c);
  void Free(UringConnection* c);
  void TakeSpare(std::string* into);
  void GiveSpare(std::string* from);

  UringCore* core_;
  const UringNetworkOptions options_;
  const unsigned buffer_count_, buffer_bytes_;
  char* buffers_ = nullptr;
  io_uring_buf_ring* buffer_ring_ = nullptr;
  size_t buffer_ring_bytes_ = 0;
  bool shutting_down_ = false;
  bool listeners_to_free_ = false;

  std::vector<UringConnection*> connections_;
  std::vector<UringConnection*> flush_list_, flushing_;
  std::list<UringConnection*> lingering_;  // longest first
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> spares_;  // emptied send strings for reuse; idle connections hold none
  size_t spares_bytes_ = 0;          // the sum of their capacities
  size_t in_flight_ = 0;
};

}  // namespace pando
