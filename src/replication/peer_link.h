// PeerLink is one link of PeerLinks: the connection to one reactor of another node, what waits to be
// sent on it, and the task that keeps it up.
//
// It belongs to PeerLinks, which frees it when it has been stopped and its task has ended.
//
// Threads: one reactor.
#pragma once

#include <deque>
#include <string>

#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/replication/frame_reader.h"
#include "src/replication/send_lane.h"

namespace pando::replication {

class PeerLinks;

// Where one reactor of another node listens.
struct PeerAddress {
  NodeId node = 0;
  uint32_t reactor = 0;
  std::string host;
  uint16_t port = 0;
  bool operator==(const PeerAddress&) const = default;
  std::string ToString() const;  // "node 2, reactor 0 (10.0.0.2:7421)"
};

class PeerLink final : private ConnectionHandler {
 public:
  PeerLink(PeerLinks* links, PeerAddress address);
  ~PeerLink();

  // Connects, again and again, until Stop.
  Task<void> Run();
  // Ends the connection and the task, soon.
  void Stop();
  // Connects anew, because what it says in its hello has changed.
  void Restart(const std::string& why);
  // The other node is there: the next attempt need not wait.
  void RetryNow();
  // A process with this incarnation was seen there. A link to an older one is of no use.
  void SawIncarnation(uint64_t incarnation);

  bool Send(uint32_t partition, const Message& message);
  bool HasRoom() const;
  // Until then, after there was no memory, nobody should try again. 0: there was.
  Nanos no_memory_until_ns() const { return no_memory_until_ns_; }
  // Hands over to the socket what it may have.
  void Flush();
  // Looks at what is late.
  void Watch(Nanos now_ns);

  bool up() const { return state_ == State::kUp; }
  // Of the process that it is connected with; 0: with none.
  uint64_t incarnation() const { return up() ? peer_incarnation_ : 0; }
  const PeerAddress& address() const { return address_; }
  const Status& why_down() const { return why_down_; }

 private:
  friend class PeerLinks;
  enum class State : uint8_t {
    kDown,      // there is no connection
    kGreeting,  // the hello was sent
    kUp,        // and accepted
    kClosing,   // the connection is about to end
  };

  void OnData(std::span<const char> bytes) override;
  void OnSent() override;
  void OnClosed(const Status& reason) override;
  // Returns why there was no connection, or why it has ended.
  Task<Status> ConnectOnce();
  bool OnFrame(PeerFrame kind, std::string_view body);
  void OnReply(std::string_view body);
  void Break(Status why);
  void HandOver(SendLane::Frame frame);
  void ReleaseTaken(size_t unsent_bytes);
  void ReleaseAll();
  void SetState(State state);
  void Report(const Status& why, bool was_up);

  PeerLinks* const links_;
  const PeerAddress address_;
  State state_ = State::kDown;
  Connection* connection_ = nullptr;
  bool stopping_ = false;
  bool retry_now_ = false;
  WaitQueue wake_;  // the connection has ended, or the pause may
  Status why_down_;
  Status why_broken_;  // why this side has ended the connection
  FrameReader reader_;
  SendLane control_, data_;
  // What the socket has and the kernel has not taken: where each frame ends among all that was handed over, and what is
  // reserved for it.
  struct Handed {
    uint64_t end = 0;
    size_t reserved_bytes = 0;
  };
  std::deque<Handed> handed_;
  uint64_t handed_bytes_ = 0;
  bool dirty_ = false;  // on the list of PeerLinks
  Nanos no_memory_until_ns_ = 0;
  uint32_t protocol_ = 0;  // of this connection
  uint64_t peer_incarnation_ = 0;
  Nanos since_ns_ = 0;      // of kGreeting
  Nanos ping_sent_ns_ = 0;  // 0: none is on its way
  Nanos next_ping_ns_ = 0;
  Nanos backoff_ns_ = 0;
  std::string logged_;  // what was logged last, and when: a node that is down fails often
  Nanos next_log_ns_ = 0;
};

}  // namespace pando::replication
