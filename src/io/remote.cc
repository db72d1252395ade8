#include "src/io/remote.h"

#include <bit>

namespace pando {

SpscRing::SpscRing(size_t capacity) : mask_(capacity - 1), slots_(std::make_unique<RemoteCall*[]>(capacity)) {
  CHECK(std::has_single_bit(capacity)) << "ring capacity " << capacity << " is not a power of two";
}

bool SpscRing::Push(RemoteCall* call) {
  size_t tail = tail_.load(std::memory_order_relaxed);
  if (tail - known_head_ > mask_) {
    known_head_ = head_.load(std::memory_order_acquire);
    if (tail - known_head_ > mask_) return false;
  }
  slots_[tail & mask_] = call;
  tail_.store(tail + 1, std::memory_order_release);
  return true;
}

RemoteCall* SpscRing::Pop() {
  size_t head = head_.load(std::memory_order_relaxed);
  if (head == known_tail_) {
    known_tail_ = tail_.load(std::memory_order_acquire);
    if (head == known_tail_) return nullptr;
  }
  RemoteCall* call = slots_[head & mask_];
  head_.store(head + 1, std::memory_order_release);
  return call;
}

RemoteMesh::RemoteMesh(int reactors, size_t capacity) : reactors_(reactors), capacity_(capacity), doorbells_(reactors) {
  CHECK_GT(reactors, 0);
  for (int i = 0; i < reactors * reactors; ++i) {
    requests_.push_back(std::make_unique<SpscRing>(capacity));
    replies_.push_back(std::make_unique<SpscRing>(capacity));
  }
}

RemotePort::RemotePort(RemoteMesh* mesh, int index, Reactor* reactor, RemoteWaker* waker)
    : mesh_(mesh), index_(index), reactor_(reactor), peers_(mesh->reactors_) {
  CHECK(index >= 0 && index < mesh->reactors_) << "reactor " << index << " of " << mesh->reactors_;
  touched_.reserve(mesh->reactors_);
  mesh_->doorbells_[index_].waker.store(waker, std::memory_order_release);
}

RemotePort::~RemotePort() {
  // Senders may still hold the waker, so the owner of the mesh must end all loops before it
  // destroys any reactor.
  mesh_->doorbells_[index_].waker.store(nullptr, std::memory_order_release);
}

void RemotePort::Touch(int target) {
  if (peers_[target].touched) return;
  peers_[target].touched = true;
  touched_.push_back(target);
}

void RemotePort::PushRequest(int target, RemoteCall* call) {
  ++peers_[target].in_flight;
  CHECK(mesh_->Requests(index_, target).Push(call)) << "a credit did not reserve a request slot";
  Touch(target);
}

void RemotePort::Call(int target, RemoteCall* call) {
  CHECK(target >= 0 && target < mesh_->reactors_) << "no reactor " << target;
  call->origin = index_;
  call->target = target;
  call->next = nullptr;
  Peer& peer = peers_[target];
  if (peer.waiting == 0 && peer.in_flight < mesh_->capacity_) {
    PushRequest(target, call);
    return;
  }
  (peer.waiting_tail ? peer.waiting_tail->next : peer.waiting_head) = call;
  peer.waiting_tail = call;
  ++peer.waiting;
}

void RemotePort::Return(RemoteCall* call) {
  CHECK_EQ(call->target, index_) << "Return was called on a reactor that the call was not sent to";
  const int origin = call->origin;  // after the push, the origin may free the call
  CHECK(mesh_->Replies(origin, index_).Push(call)) << "a credit did not reserve a reply slot";
  Touch(origin);
}

bool RemotePort::Poll() {
  bool any = false;
  for (int peer_index = 0; peer_index < mesh_->reactors_; ++peer_index) {
    SpscRing& replies = mesh_->Replies(index_, peer_index);
    for (size_t n = 0; n < mesh_->capacity_; ++n) {
      RemoteCall* call = replies.Pop();
      if (!call) break;
      any = true;
      Peer& peer = peers_[peer_index];
      --peer.in_flight;
      if (RemoteCall* waiting = peer.waiting_head) {  // the longest waiter gets the credit
        peer.waiting_head = std::exchange(waiting->next, nullptr);
        if (!peer.waiting_head) peer.waiting_tail = nullptr;
        --peer.waiting;
        PushRequest(peer_index, waiting);
      }
      call->Finish();
    }
    SpscRing& requests = mesh_->Requests(peer_index, index_);
    for (size_t n = 0; n < mesh_->capacity_; ++n) {
      RemoteCall* call = requests.Pop();
      if (!call) break;
      any = true;
      call->target_reactor = reactor_;
      call->Start();
    }
  }
  return any;
}

void RemotePort::FlushWakes() {
  for (int target : touched_) {
    peers_[target].touched = false;
    if (target == index_) continue;  // PrepareSleep sees calls to itself
    RemoteMesh::Doorbell& bell = mesh_->doorbells_[target];
    if (!bell.asleep.exchange(false, std::memory_order_acq_rel)) continue;
    if (RemoteWaker* waker = bell.waker.load(std::memory_order_acquire)) waker->Wake();
  }
  touched_.clear();
}

bool RemotePort::PrepareSleep() {
  mesh_->doorbells_[index_].asleep.exchange(true, std::memory_order_acq_rel);
  if (!HasIncoming()) return true;
  Awake();
  return false;
}

bool RemotePort::HasIncoming() const {
  for (int peer = 0; peer < mesh_->reactors_; ++peer) {
    if (!mesh_->Requests(peer, index_).Empty() || !mesh_->Replies(index_, peer).Empty()) return true;
  }
  return false;
}

size_t RemotePort::outstanding() const {
  size_t total = 0;
  for (const Peer& peer : peers_) total += peer.in_flight + peer.waiting;
  return total;
}

}  // namespace pando
