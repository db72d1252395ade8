// SendLane: messages that wait on one link, encoded, as the frames in which they will leave.
//
// The memory of the frames, their unused capacity included, is reserved in the account before it is
// allocated (LK1). No message is taken once it has reached `limit_bytes`, so it exceeds them by less
// than one message.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <deque>
#include <string>
#include <utility>

#include "src/base/memory_budget.h"
#include "src/io/append_sparely.h"
#include "src/replication/wire.h"

namespace pando::replication {

class SendLane {
 public:
  // A frame that waits is added to up to this size.
  static constexpr size_t kFrameBytes = 64u << 10;

  // `first_bytes`: with so much memory a frame begins. More is copied less often as the frame grows.
  SendLane(BudgetAccount* account, size_t limit_bytes, MemoryLane lane, size_t first_bytes = 512)
      : account_(account), limit_bytes_(limit_bytes), lane_(lane), first_bytes_(first_bytes) {}
  SendLane(const SendLane&) = delete;
  SendLane& operator=(const SendLane&) = delete;
  ~SendLane() { Clear(); }

  enum class Answer : uint8_t { kTaken, kFull, kNoMemory };
  Answer Append(uint32_t protocol, uint32_t partition, const Message& message) {
    if (reserved_bytes_ >= limit_bytes_) return Answer::kFull;
    const size_t bytes = EncodedBytes(protocol, message);
    const bool joins = !frames_.empty() && frames_.back().bytes.size() + bytes <= kFrameBytes;
    const size_t before = joins ? frames_.back().bytes.size() : sizeof(PeerFrameHeader);
    const size_t had = joins ? frames_.back().reserved_bytes : 0;
    const size_t grown = std::max(before + bytes, joins ? std::min(2 * had, kFrameBytes) : first_bytes_);
    if (grown > had) {
      if (!account_->TryReserve(static_cast<int64_t>(grown - had), lane_)) return Answer::kNoMemory;
      reserved_bytes_ += grown - had;
      if (!joins) frames_.emplace_back();
      ReserveExactly(&frames_.back().bytes, grown);
      if (!joins) BeginFrame(&frames_.back().bytes);
      frames_.back().reserved_bytes = grown;
    }
    EncodeMessage(protocol, partition, message, &frames_.back().bytes);
    ++frames_.back().messages;
    return Answer::kTaken;
  }

  struct Frame {
    std::string bytes;          // not sealed yet
    size_t reserved_bytes = 0;  // in the account; who takes the frame must release it
    size_t messages = 0;
  };
  bool empty() const { return frames_.empty(); }
  Frame Pop() {
    Frame frame = std::move(frames_.front());
    frames_.pop_front();
    reserved_bytes_ -= frame.reserved_bytes;
    return frame;
  }
  // Returns how many messages are lost.
  size_t Clear() {
    size_t messages = 0;
    for (const Frame& frame : frames_) messages += frame.messages;
    frames_.clear();
    account_->Release(static_cast<int64_t>(std::exchange(reserved_bytes_, 0)));
    return messages;
  }
  size_t reserved_bytes() const { return reserved_bytes_; }

 private:
  BudgetAccount* const account_;
  const size_t limit_bytes_;
  const MemoryLane lane_;
  const size_t first_bytes_;
  std::deque<Frame> frames_;
  size_t reserved_bytes_ = 0;
};

}  // namespace pando::replication
