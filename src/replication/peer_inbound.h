// PeerInbound is a connection that another node, a guard, or a stranger has opened to PeerLinks.
//
// It belongs to PeerLinks, which frees it in OnClosed.
//
// Threads: one reactor.
#pragma once

#include <string>
#include <string_view>

#include "src/io/reactor.h"
#include "src/replication/frame_reader.h"

namespace pando::replication {

class PeerLinks;

class PeerInbound final : private ConnectionHandler {
 public:
  PeerInbound(PeerLinks* links, Connection* connection);

  // Ends the connection; drops what has not left.
  void Close();
  // Looks at what is late.
  void Watch(Nanos now_ns);

  bool stranger() const { return state_ == State::kStranger || state_ == State::kWaiting; }
  bool waiting() const { return state_ == State::kWaiting; }
  bool accepted() const { return state_ == State::kAccepted; }
  const PeerHello& hello() const { return hello_; }  // REQUIRES: accepted() or waiting()
  // Answers the hello, unless it must wait (PeerLinks::IsTaken). REQUIRES: waiting()
  void Admit();

 private:
  friend class PeerLinks;
  enum class State : uint8_t {
    kStranger,  // has not sent a hello
    kWaiting,   // has, and is not answered yet; what else it says is lost
    kAccepted,
    kClosing,  // nothing that comes is looked at
  };

  void OnData(std::span<const char> bytes) override;
  void OnSent() override {}
  void OnClosed(const Status& reason) override;
  // Returns false when nothing more is to be read.
  bool OnFrame(PeerFrame kind, std::string_view body);
  bool OnHello(std::string_view body);
  bool OnMessages(std::string_view body);
  bool OnDeathNotice(std::string_view body);
  bool OnPing();
  bool Garbage(std::string_view why);
  void TimeOut(std::string_view why);
  std::string Who() const;

  PeerLinks* const links_;
  Connection* const connection_;
  State state_ = State::kStranger;
  PeerHello hello_;
  FrameReader reader_;
  uint32_t list_index_ = 0;
  const Nanos since_ns_;
  Nanos received_ns_;           // when bytes came last
  Nanos partial_since_ns_ = 0;  // when the frame began that is not whole; 0: none
};

}  // namespace pando::replication
