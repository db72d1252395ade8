// ReplyCutter: splits a byte stream, which arrives in pieces of any size, into whole answers. An
// answer within one piece is passed on in place. Only an answer that spans several pieces is
// copied.
//
// Threads: one. A cutter belongs to one connection.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "tools/kvbench/protocol.h"

namespace pando::bench {

class ReplyCutter {
 public:
  explicit ReplyCutter(const Protocol& protocol, size_t max_reply_bytes = 64u << 20)
      : protocol_(&protocol), max_reply_bytes_(max_reply_bytes) {}

  // Calls `on_reply(std::string_view frame)` for each answer that `bytes` completes. The view is
  // valid during the call. kCorruption when the bytes are not an answer or the answer is too long.
  template <typename OnReply>
  Status Feed(std::span<const char> bytes, OnReply&& on_reply) {
    std::string_view in(bytes.data(), bytes.size());
    while (!partial_.empty() && !in.empty()) {
      RETURN_IF_ERROR(Complete(&in));
      if (partial_.size() != expected_bytes_) continue;
      on_reply(std::string_view(partial_));
      partial_.clear();
      expected_bytes_ = 0;
    }
    while (!in.empty()) {
      size_t length = protocol_->ReplyBytes(in);
      RETURN_IF_ERROR(CheckLength(length));
      if (length == 0 || length > in.size()) {
        partial_.assign(in);
        expected_bytes_ = length;
        break;
      }
      on_reply(in.substr(0, length));
      in.remove_prefix(length);
    }
    return Status();
  }
  size_t partial_bytes() const { return partial_.size(); }

 private:
  static constexpr size_t kHeaderStep = 16;  // bytes to add at a time while the length is unknown

  // Moves bytes from `in` to the partial answer, but not past the answer's end.
  Status Complete(std::string_view* in) {
    if (expected_bytes_ == 0) {
      // This may take bytes of the next answer. They are returned once the length is known.
      size_t before = partial_.size();
      size_t take = std::min(kHeaderStep, in->size());
      partial_.append(in->substr(0, take));
      size_t length = protocol_->ReplyBytes(partial_);
      RETURN_IF_ERROR(CheckLength(length));
      expected_bytes_ = length;
      if (length != 0 && partial_.size() > length) {
        take = length - before;
        partial_.resize(length);
      }
      in->remove_prefix(take);
      return Status();
    }
    size_t take = std::min(expected_bytes_ - partial_.size(), in->size());
    partial_.append(in->substr(0, take));
    in->remove_prefix(take);
    return Status();
  }
  Status CheckLength(size_t length) const {
    if (length == Protocol::kGarbage) return Error(Code::kCorruption, "the server sent bytes that are not an answer");
    if (length > max_reply_bytes_)
      return Error(Code::kCorruption, "the server announced an answer of {} bytes, which is too long", length);
    return Status();
  }

  const Protocol* protocol_;
  size_t max_reply_bytes_;
  std::string partial_;
  size_t expected_bytes_ = 0;  // of the answer in partial_; 0 = not known yet
};

}  // namespace pando::bench
