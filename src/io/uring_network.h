// UringNetwork: the socket half of UringReactor: multishot receive into one ring of provided buffers, one send in
// flight per connection. A listener is polled, and what is ready is accepted call by call, because a multishot accept
// would take a whole backlog of descriptors before anybody could count them.
//
// A peer that has vanished without a word is found by keep-alive probes (nothing sent) and TCP_USER_TIMEOUT (something
// sent and not acknowledged).
//
// Threads: one reactor.
//
// Invariants
//   S1  Handlers are called only from completions, timers and Flush, that is, from the loop.
//   S2  Connections and listeners are freed in Flush only, which is the last step of a turn, and only once the kernel
//       holds no operation of theirs. Everything else marks them, so no other function can be left with a pointer to
//       something that a callee has freed.
//   S3  A provided buffer goes back to the kernel as soon as OnData returns.
//   S4  Closing is bounded: queued bytes have drain_limit_ns to go out, the peer has linger_limit_ns to read them.
#pragma once

#include <deque>
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
  const std::string& peer() const override { return peer_; }

 private:
  friend class UringNetwork;
  // kOpen -> kDraining (Close: queued bytes go out) -> kLingering (our side is shut, the peer's bytes are discarded so
  // that no reset overtakes our last reply) -> kDying (waits for the kernel to let go, then for Flush to free it).
  // The handler hears OnClosed on leaving kDraining, or kOpen when the peer ends it.
  enum class State : uint8_t { kOpen, kDraining, kLingering, kDying };
  struct LingerTimer : Timer {
    UringConnection* connection = nullptr;
  };

  UringConnection(UringNetwork* network, int fd, std::string peer, ConnectionBudget* budget);

  UringNetwork* network_;
  const int fd_;
  const std::string peer_;
  ConnectionBudget* const budget_;  // a place of which this connection holds; may be null
  ConnectionHandler* handler_ = nullptr;
  State state_ = State::kOpen;
  bool receive_armed_ = false;  // the kernel holds a receive
  bool receive_cancelled_ = false;
  bool receive_ended_ = false;  // end of file seen
  bool send_armed_ = false;     // the kernel holds a send of sending_
  bool paused_ = false;
  bool close_now_ = false;  // Close(true): drop what is queued
  bool on_flush_list_ = false;
  std::string pending_;  // queued while a send is in flight
  std::string sending_;
  size_t sent_ = 0;  // of sending_
  LingerTimer timer_;
  size_t list_index_ = 0;
};

struct UringNetworkOptions {
  unsigned receive_buffers = 256;  // a power of two; allocated at the first Listen or Connect
  unsigned receive_buffer_bytes = 16u << 10;
  Nanos drain_limit_ns = 5 * kSecond;
  Nanos linger_limit_ns = kSecond;
  // After so long without a sign of life a connection ends. Whole seconds; at least two.
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
  // Starts what the turn asked for: sends, receives, closes. Called once a turn, last.
  void Flush();
  bool has_work() const { return !flush_list_.empty() || listeners_to_free_; }
  // Shuts all sockets and forgets all handlers; completions still have to be dispatched until in_flight() is 0.
  void Shutdown();
  size_t in_flight() const { return in_flight_; }

 private:
  friend class UringConnection;
  struct Listener : Timer {
    UringNetwork* network = nullptr;
    int fd = -1;
    AcceptHandler* handler = nullptr;
    ConnectionBudget* budget = nullptr;
    bool poll_armed = false;
    bool stopping = false;  // fd is closed, and -1, as soon as the kernel holds no poll
    std::string address;
  };
  struct ConnectOp;

  Status EnsureBuffers();
  void RecycleBuffer(unsigned id);
  Result<int> MakeSocket(const SocketAddress& address) const;
  UringConnection* AddConnection(int fd, ConnectionBudget* budget);
  void MarkForFlush(UringConnection* c);
  void FlushConnection(UringConnection* c);
  void StartSend(UringConnection* c);
  void ArmReceive(UringConnection* c);
  void OnReceive(UringConnection* c, int32_t result, uint32_t flags);
  void OnSend(UringConnection* c, int32_t result);
  void ArmPoll(Listener* listener);
  void OnPoll(Listener* listener);
  void AcceptReady(Listener* listener);
  // False: nothing more can be accepted now.
  bool AcceptOne(Listener* listener);
  void CloseIfStopped(Listener* listener);
  void Drain(UringConnection* c);
  void StartLinger(UringConnection* c);
  // Tells the handler, and starts dying.
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
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::string> spares_;  // emptied send strings, so that idle connections hold no memory
  size_t spares_bytes_ = 0;          // of their capacity
  size_t in_flight_ = 0;
};

}  // namespace pando
