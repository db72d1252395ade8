// Messages between reactors. RemoteMesh has one request ring and one reply ring, each with a single
// producer and a single consumer, for every ordered pair of reactors. Both the production reactor
// and the simulated one use it.
//
// Threads: RemoteMesh is shared, and immutable once constructed. RemotePort `i` belongs to reactor
// i. Only wake-ups cross threads: the sender's thread calls the target's RemoteWaker.
//
// Invariants
//   M1  A message that does not fit into its ring waits at its sender, in order, until the receiver
//       has taken others. Receivers take messages in every turn, whatever waits at them, so full
//       rings cannot block each other. A call that runs holds no place in a ring.
//   M2  Calls of one pair start in the order of CallRemote.
//   M3  The number of messages that wait is bounded by what their requests have reserved: each
//       belongs to a request that was admitted on its origin.
//   M4  A reactor that goes to sleep just as a message arrives, or just as a full ring that it waits
//       for gets room, is woken. Both sides perform an atomic exchange on the same flag, which
//       orders the last look at the rings against the other side's push or pop.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "src/io/reactor.h"

namespace pando {

// A bounded ring for one producer thread and one consumer thread.
class SpscRing {
 public:
  explicit SpscRing(size_t capacity);  // `capacity` must be a power of two
  bool Push(RemoteCall* call);         // false if the ring is full
  bool HasRoom() const;                // for the producer
  RemoteCall* Pop();                   // null if the ring is empty
  bool Empty() const { return head_.load(std::memory_order_relaxed) == tail_.load(std::memory_order_acquire); }

 private:
  const size_t mask_;
  std::unique_ptr<RemoteCall*[]> slots_;
  alignas(64) std::atomic<size_t> head_{0};  // written by the consumer
  size_t known_tail_ = 0;                    // the consumer's copy of tail_
  alignas(64) std::atomic<size_t> tail_{0};  // written by the producer
  size_t known_head_ = 0;                    // the producer's copy of head_
};

struct RemoteWaker {
  virtual void Wake() = 0;  // may be called from any thread of the mesh

 protected:
  ~RemoteWaker() = default;
};

class RemoteMesh {
 public:
  static constexpr size_t kDefaultCapacity = 1024;

  explicit RemoteMesh(int reactors, size_t capacity = kDefaultCapacity);
  int size() const { return reactors_; }
  size_t capacity() const { return capacity_; }

 private:
  friend class RemotePort;
  struct alignas(64) Doorbell {
    std::atomic<bool> asleep{false};
    std::atomic<RemoteWaker*> waker{nullptr};  // null until the target's port exists
  };
  SpscRing& Requests(int origin, int target) { return *requests_[origin * reactors_ + target]; }
  SpscRing& Replies(int origin, int target) { return *replies_[origin * reactors_ + target]; }

  const int reactors_;
  const size_t capacity_;
  std::vector<std::unique_ptr<SpscRing>> requests_, replies_;  // at origin * reactors_ + target
  std::vector<Doorbell> doorbells_;
};

// One reactor's end of the mesh.
class RemotePort {
 public:
  RemotePort(RemoteMesh* mesh, int index, Reactor* reactor, RemoteWaker* waker);
  ~RemotePort();

  void Call(int target, RemoteCall* call);
  void Return(RemoteCall* call);

  // Sends what had to wait, starts calls that have arrived, and finishes calls that have come back;
  // at most `capacity` of each per peer. Returns whether there were any.
  bool Poll();
  // Wakes the targets that were sent something since the last call of this function. Called once
  // per turn.
  void FlushWakes();
  // Must be called before the reactor sleeps. Returns false when something has arrived, or when
  // something that waits can be sent, and the reactor must not sleep.
  bool PrepareSleep();
  // This is an exchange and not a store, because M4 depends on the chain of exchanges.
  void Awake() { mesh_->doorbells_[index_].asleep.exchange(false, std::memory_order_acq_rel); }
  bool HasIncoming() const;
  // The number of calls that this reactor has made and that have not finished.
  size_t outstanding() const { return outstanding_; }

 private:
  // Messages to one peer that found their ring full, in order.
  struct Waiting {
    RemoteCall* head = nullptr;
    RemoteCall* tail = nullptr;
  };
  struct Peer {
    Waiting requests, replies;
    bool touched = false;
  };
  void Send(SpscRing* ring, Waiting* waiting, int peer, RemoteCall* call);
  bool SendWaiting(SpscRing* ring, Waiting* waiting, int peer);
  bool CanSendWaiting() const;
  void Touch(int target);

  RemoteMesh* mesh_;
  const int index_;
  Reactor* reactor_;
  std::vector<Peer> peers_;
  std::vector<int> touched_;
  size_t outstanding_ = 0;
};

}  // namespace pando
