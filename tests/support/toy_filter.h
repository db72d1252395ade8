// ToyFilter: a byte filter for tests, with all that encryption needs from the seam and no secrecy.
//
// The client's first message is "TOYC", a nonce and its name; the server answers "TOYS" and a
// nonce. From then on each side sends records: a length of 2 bytes, then that many bytes XORed with
// a key stream made of both nonces. A record of length 0 says that nothing follows. "TOYX" in place
// of a handshake message refuses it.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/io/byte_filter.h"

namespace pando {

class ToyFilter final : public ByteFilter {
 public:
  static constexpr size_t kNonceBytes = 8;
  static constexpr size_t kNameBytes = 8;
  static constexpr size_t kHelloBytes = 4 + kNonceBytes + kNameBytes;
  static constexpr size_t kAnswerBytes = 4 + kNonceBytes;
  static constexpr size_t kMaxRecordBytes = 4096;

  ToyFilter(Reactor& reactor, bool client, std::string name) : client_(client), name_(std::move(name)) {
    reactor.FillRandom(std::as_writable_bytes(std::span(&mine_, 1)));
    name_.resize(kNameBytes, ' ');
  }

  Status Start(std::string* wire) override {
    if (client_) wire->append("TOYC").append(Raw(mine_)).append(name_);
    return {};
  }

  Status Receive(std::string_view bytes, std::string* plain, std::string* wire) override {
    in_.append(bytes);
    if (!established_) RETURN_IF_ERROR(Handshake(wire));
    if (!established_) return {};
    size_t at = 0;
    while (!ended_ && in_.size() - at >= 2) {
      const size_t length = LoadLE<uint16_t>(in_.data() + at);
      if (length > kMaxRecordBytes) return Error(Code::kCorruption, "a record has {} bytes", length);
      if (in_.size() - at - 2 < length) break;
      ended_ = length == 0;
      const size_t from = plain->size();
      plain->append(in_, at + 2, length);
      Mix(plain->data() + from, length, &received_);
      at += 2 + length;
    }
    std::string(in_, at).swap(in_);  // without the unused capacity
    return {};
  }

  Status Send(std::string_view plain, std::string* wire) override {
    CHECK(established_ && !plain.empty());
    if (fail_sends) return Error(Code::kIoError, "the key is used up");
    while (!plain.empty()) {
      const size_t length = std::min(plain.size(), kMaxRecordBytes);
      AppendLength(length, wire);
      const size_t from = wire->size();
      wire->append(plain.substr(0, length));
      Mix(wire->data() + from, length, &sent_);
      plain.remove_prefix(length);
    }
    return {};
  }

  void End(std::string* wire) override {
    CHECK(established_);
    AppendLength(0, wire);
  }
  Status OnCut() override { return Error(Code::kCorruption, "the peer did not say that nothing follows"); }
  bool established() const override { return established_; }
  bool ended() const override { return ended_; }
  std::string principal() const override { return client_ ? "" : peer_name_; }
  size_t held_bytes() const override { return sizeof(*this) + (in_.capacity() > 15 ? in_.capacity() : 0); }

  inline static bool fail_sends = false;

 private:
  static std::string_view Raw(const uint64_t& nonce) { return {reinterpret_cast<const char*>(&nonce), sizeof nonce}; }
  static void AppendLength(size_t length, std::string* wire) {
    const auto wide = static_cast<uint16_t>(length);
    wire->append(reinterpret_cast<const char*>(&wide), sizeof wide);
  }
  void Mix(char* bytes, size_t count, uint64_t* position) const {
    const uint64_t key = mine_ ^ theirs_;
    for (size_t i = 0; i < count; ++i, ++*position) {
      bytes[i] = static_cast<char>(bytes[i] ^ static_cast<char>(key >> (8 * (*position % 8)) ^ *position));
    }
  }

  Status Handshake(std::string* wire) {
    const std::string_view expected = client_ ? "TOYS" : "TOYC";
    const std::string_view start = std::string_view(in_).substr(0, 4);
    if (start == "TOYX") return Error(Code::kAborted, "the peer refuses the handshake");
    const bool possible = expected.starts_with(start) || std::string_view("TOYX").starts_with(start);
    if (!possible) {
      wire->append("TOYX");
      return Error(Code::kCorruption, "the peer sent no handshake");
    }
    const size_t bytes = client_ ? kAnswerBytes : kHelloBytes;
    if (in_.size() < bytes) return {};
    theirs_ = LoadLE<uint64_t>(in_.data() + 4);
    if (!client_) {
      peer_name_ = in_.substr(4 + kNonceBytes, kNameBytes);
      peer_name_.erase(peer_name_.find_last_not_of(' ') + 1);
      if (peer_name_ == "stranger") {
        wire->append("TOYX");
        return Error(Code::kInvalidArgument, "nobody knows {}", peer_name_);
      }
      wire->append("TOYS").append(Raw(mine_));
    }
    in_.erase(0, bytes);
    established_ = true;
    return {};
  }

  const bool client_;
  std::string name_, peer_name_;
  uint64_t mine_ = 0, theirs_ = 0, sent_ = 0, received_ = 0;
  std::string in_;
  bool established_ = false, ended_ = false;
};

class ToyFilters final : public ByteFilters {
 public:
  explicit ToyFilters(bool client, std::string name = "tester") : client_(client), name_(std::move(name)) {}
  std::unique_ptr<ByteFilter> MakeFilter(Reactor& reactor) override {
    return std::make_unique<ToyFilter>(reactor, client_, name_);
  }

 private:
  const bool client_;
  const std::string name_;
};

}  // namespace pando
