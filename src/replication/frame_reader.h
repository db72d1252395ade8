// FrameReader cuts the bytes of one peer into frames. A frame that arrives whole is passed on from
// where it lies. One that arrives in pieces is collected, in memory that grows with the bytes that
// have arrived, never with the length that the peer claims. If there is no memory for it, the frame
// is skipped: whatever it said is lost, as with any message.
//
// Take passes on no frame whose header is not allowed or whose checksum does not match (PM2).
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/codec.h"
#include "src/base/memory_budget.h"
#include "src/base/result.h"
#include "src/replication/wire.h"

namespace pando::replication {

class FrameReader {
 public:
  // `account` must outlive the reader.
  explicit FrameReader(BudgetAccount* account) : account_(account) {}
  FrameReader(const FrameReader&) = delete;
  FrameReader& operator=(const FrameReader&) = delete;
  ~FrameReader() { Release(); }

  // Forgets what has arrived in part, for the next connection.
  void Reset();
  // Frames with longer bodies are refused.
  void SetLimit(size_t body_bytes) { limit_bytes_ = body_bytes; }

  // Calls bool on_frame(PeerFrame, std::string_view body) for each frame. If that returns false, the
  // rest is not looked at. kCorruption: the peer's bytes cannot be understood from here on.
  template <typename OnFrame>
  Status Take(std::string_view bytes, OnFrame on_frame) {
    while (true) {
      if (head_bytes_ < sizeof head_) {
        if (bytes.empty()) return {};
        TakeHead(&bytes);
        if (head_bytes_ < sizeof head_) return {};
        RETURN_IF_ERROR(CheckHead());
      }
      if (skip_bytes_ > 0) {
        const size_t skipped = std::min(skip_bytes_, bytes.size());
        bytes.remove_prefix(skipped);
        skip_bytes_ -= skipped;
        if (skip_bytes_ > 0) return {};
        head_bytes_ = 0;
        continue;
      }
      const PeerFrameHeader header = LoadLE<PeerFrameHeader>(head_);
      const size_t missing = header.body_bytes - body_.size();
      const std::string_view piece = bytes.substr(0, missing);
      if (!body_.empty() || piece.size() < missing) {
        if (bytes.empty()) return {};
        if (!Grow(piece.size())) {
          StartSkip();
          continue;
        }
        body_.append(piece);
      }
      bytes.remove_prefix(piece.size());
      if (piece.size() < missing) return {};
      // `body_` stays until the frame was handled.
      const std::string_view body = body_.empty() ? piece : std::string_view(body_);
      RETURN_IF_ERROR(CheckFrameBody(header, body));
      head_bytes_ = 0;
      ++frames_;
      const bool go_on = on_frame(header.kind, body);
      Release();
      if (!go_on) return {};
    }
  }

  // A part of a frame has arrived.
  bool partial() const { return head_bytes_ > 0; }
  uint64_t frames() const { return frames_; }    // that were passed on
  uint64_t skipped() const { return skipped_; }  // for lack of memory

 private:
  // Small frames, which hold heartbeats and the like, may use what is kept for an overload.
  static constexpr size_t kControlBytes = 16u << 10;
  static constexpr size_t kMinBodyBytes = 512;

  void TakeHead(std::string_view* bytes);
  Status CheckHead() const;
  // Makes room for so many more bytes of the body.
  bool Grow(size_t bytes);
  void StartSkip();
  void Release();

  BudgetAccount* const account_;
  size_t limit_bytes_ = kMaxSmallFrameBytes;
  char head_[sizeof(PeerFrameHeader)];
  size_t head_bytes_ = 0;
  std::string body_;
  size_t reserved_bytes_ = 0;
  size_t skip_bytes_ = 0;
  uint64_t frames_ = 0, skipped_ = 0;
};

}  // namespace pando::replication
