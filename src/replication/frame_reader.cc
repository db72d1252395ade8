#include "src/replication/frame_reader.h"

#include "src/io/append_sparely.h"

namespace pando::replication {

void FrameReader::Reset() {
  head_bytes_ = skip_bytes_ = 0;
  Release();
}

void FrameReader::TakeHead(std::string_view* bytes) {
  const size_t taken = std::min(bytes->size(), sizeof head_ - head_bytes_);
  std::memcpy(head_ + head_bytes_, bytes->data(), taken);
  head_bytes_ += taken;
  bytes->remove_prefix(taken);
}

Status FrameReader::CheckHead() const {
  const PeerFrameHeader header = LoadLE<PeerFrameHeader>(head_);
  RETURN_IF_ERROR(CheckFrameHeader(header));
  if (header.body_bytes <= limit_bytes_) return {};
  return Error(Code::kCorruption, "a frame of {} bytes came where the limit is {}", header.body_bytes, limit_bytes_);
}

bool FrameReader::Grow(size_t bytes) {
  const size_t needed = body_.size() + bytes;
  if (needed <= reserved_bytes_) return true;
  const size_t whole = LoadLE<PeerFrameHeader>(head_).body_bytes;
  const size_t grown = std::min(whole, std::max({needed, kMinBodyBytes, 2 * reserved_bytes_}));
  const MemoryLane lane = whole <= kControlBytes ? MemoryLane::kControl : MemoryLane::kOrdinary;
  if (!account_->TryReserve(static_cast<int64_t>(grown - reserved_bytes_), lane)) return false;
  reserved_bytes_ = grown;
  ReserveExactly(&body_, grown);
  return true;
}

void FrameReader::StartSkip() {
  skip_bytes_ = LoadLE<PeerFrameHeader>(head_).body_bytes - body_.size();
  ++skipped_;
  Release();
}

void FrameReader::Release() {
  if (body_.capacity() > 0) std::string().swap(body_);
  if (reserved_bytes_ > 0) account_->Release(static_cast<int64_t>(std::exchange(reserved_bytes_, 0)));
}

}  // namespace pando::replication
