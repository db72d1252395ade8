// Messages between reactors: a mesh of single-producer single-consumer rings, one request ring and one reply ring per
// ordered pair. Used by both reactors.
//
// Threads: RemoteMesh is shared and immutable once made; RemotePort `i` belongs to reactor i. A wake-up is the only
// thing that crosses: RemoteMesh calls the target's RemoteWaker from the sender's thread.
//
// Invariants
//   M1  A request is pushed only while fewer than `capacity` calls of its pair are outstanding (pushed and their reply
//       not yet taken), so neither the push of a request nor the push of its reply can find a full ring.
//   M2  Calls of one pair start in the order of CallRemote.
//   M3  A call holds its credit until it is finished. Hence a call must not wait, while it runs, for calls that need
//       credits of a pair whose calls may be waiting for it: a chain 0 -> 1 -> 0 -> 1 can use up its own credits. Calls
//       that finish on their target alone (all of Pando's) cannot deadlock.
//   M4  A target that went to sleep after its last look at its rings is woken: both sides pass through one atomic
//       exchange, which orders the sleeper's look against the sender's push.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "src/io/reactor.h"

namespace pando {

// A bounded ring with one producer thread and one consumer thread.
class SpscRing {
 public:
  explicit SpscRing(size_t capacity);  // a power of two
  bool Push(RemoteCall* call);         // false when full
  RemoteCall* Pop();                   // null when empty
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
  virtual void Wake() = 0;  // from any thread of the mesh

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
    std::atomic<RemoteWaker*> waker{nullptr};  // null until the target's port exists; it then looks for itself
  };
  SpscRing& Requests(int origin, int target) { return *requests_[origin * reactors_ + target]; }
  SpscRing& Replies(int origin, int target) { return *replies_[origin * reactors_ + target]; }

  const int reactors_;
  const size_t capacity_;
  std::vector<std::unique_ptr<SpscRing>> requests_, replies_;  // by origin * reactors + target
  std::vector<Doorbell> doorbells_;
};

// One reactor's end of the mesh.
class RemotePort {
 public:
  RemotePort(RemoteMesh* mesh, int index, Reactor* reactor, RemoteWaker* waker);
  ~RemotePort();

  void Call(int target, RemoteCall* call);
  void Return(RemoteCall* call);

  // Starts the calls that have arrived and finishes the ones that came back, at most one ring's capacity each.
  // Returns whether there were any.
  bool Poll();
  // Rings the doorbells of the targets that got something since the last call: once a turn.
  void FlushWakes();
  // To be called before sleeping; false when something has arrived and the reactor must not sleep.
  bool PrepareSleep();
  // An exchange, not a store: it keeps the chain of M4 unbroken.
  void Awake() { mesh_->doorbells_[index_].asleep.exchange(false, std::memory_order_acq_rel); }
  bool HasIncoming() const;
  // Calls sent and not yet finished, and calls waiting for a credit.
  size_t outstanding() const;

 private:
  struct Peer {
    size_t in_flight = 0;
    RemoteCall* waiting_head = nullptr;  // for want of credits, in order
    RemoteCall* waiting_tail = nullptr;
    size_t waiting = 0;
    bool touched = false;
  };
  void PushRequest(int target, RemoteCall* call);
  void Touch(int target);

  RemoteMesh* mesh_;
  const int index_;
  Reactor* reactor_;
  std::vector<Peer> peers_;
  std::vector<int> touched_;
};

}  // namespace pando
