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

bool SpscRing::HasRoom() const {
  return tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_acquire) <= mask_;
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

void RemotePort::Send(SpscRing* ring, Waiting* waiting, int peer, RemoteCall* call) {
  if (!waiting->head && ring->Push(call)) return Touch(peer);
  call->next = nullptr;
  (waiting->tail ? waiting->tail->next : waiting->head) = call;
  waiting->tail = call;
}

bool RemotePort::SendWaiting(SpscRing* ring, Waiting* waiting, int peer) {
  bool any = false;
  while (RemoteCall* call = waiting->head) {
    RemoteCall* next = call->next;  // once it is pushed, the call belongs to the receiver
    if (!ring->Push(call)) break;
    waiting->head = next;
    if (!next) waiting->tail = nullptr;
    any = true;
  }
  if (any) Touch(peer);
  return any;
}

bool RemotePort::CanSendWaiting() const {
  for (int peer = 0; peer < mesh_->reactors_; ++peer) {
    if (peers_[peer].requests.head && mesh_->Requests(index_, peer).HasRoom()) return true;
    if (peers_[peer].replies.head && mesh_->Replies(peer, index_).HasRoom()) return true;
  }
  return false;
}

void RemotePort::Call(int target, RemoteCall* call) {
  CHECK(target >= 0 && target < mesh_->reactors_) << "no reactor " << target;
  call->origin = index_;
  call->target = target;
  ++outstanding_;
  Send(&mesh_->Requests(index_, target), &peers_[target].requests, target, call);
}

void RemotePort::Return(RemoteCall* call) {
  CHECK_EQ(call->target, index_) << "Return was called on a reactor that the call was not sent to";
  const int origin = call->origin;  // after the push, the origin may free the call
  Send(&mesh_->Replies(origin, index_), &peers_[origin].replies, origin, call);
}

bool RemotePort::Poll() {
  bool any = false;
  const size_t capacity = mesh_->capacity_;
  for (int peer = 0; peer < mesh_->reactors_; ++peer) {
    any |= SendWaiting(&mesh_->Requests(index_, peer), &peers_[peer].requests, peer);
    any |= SendWaiting(&mesh_->Replies(peer, index_), &peers_[peer].replies, peer);
    SpscRing& replies = mesh_->Replies(index_, peer);
    size_t finished = 0, started = 0;
    for (RemoteCall* call; finished < capacity && (call = replies.Pop()); ++finished) {
      --outstanding_;
      call->Finish();
    }
    SpscRing& requests = mesh_->Requests(peer, index_);
    for (RemoteCall* call; started < capacity && (call = requests.Pop()); ++started) {
      call->target_reactor = reactor_;
      call->Start();
    }
    any |= finished + started > 0;
    // A peer that found a ring full may sleep until it has room. Whenever that happened, a whole
    // ring has been taken since.
    if (finished == capacity || started == capacity) Touch(peer);
  }
  return any;
}

void RemotePort::FlushWakes() {
  for (int target : touched_) {
    peers_[target].touched = false;
    if (target == index_) continue;  // PrepareSleep sees messages to itself
    RemoteMesh::Doorbell& bell = mesh_->doorbells_[target];
    if (!bell.asleep.exchange(false, std::memory_order_acq_rel)) continue;
    if (RemoteWaker* waker = bell.waker.load(std::memory_order_acquire)) waker->Wake();
  }
  touched_.clear();
}

bool RemotePort::PrepareSleep() {
  mesh_->doorbells_[index_].asleep.exchange(true, std::memory_order_acq_rel);
  if (!HasIncoming() && !CanSendWaiting()) return true;
  Awake();
  return false;
}

bool RemotePort::HasIncoming() const {
  for (int peer = 0; peer < mesh_->reactors_; ++peer) {
    if (!mesh_->Requests(peer, index_).Empty() || !mesh_->Replies(index_, peer).Empty()) return true;
  }
  return false;
}

}  // namespace pando
