// RpcConnection is the connection of one client. It cuts the byte stream into frames and sends
// replies in request order, or, if the client has agreed to it, in the order in which they become
// ready.
//
// Receiving: a frame that arrives whole is passed on directly from the receive buffer. A partial
// frame is collected in `pending_`, which grows with the bytes that have arrived (never with the
// length that the client claims) and counts against the memory budget.
//
// One turn handles a limited amount of work of one connection (kMaxTurnWork). The rest waits in
// `pending_` for the next turn.
//
// Replies: each request gets the next sequence number. The reply that is next in order is encoded
// directly into `out_`; a reply that is early waits in the ring. All replies of a turn leave in one
// Send. After AllowOutOfOrder no reply waits: each is encoded directly into `out_`, and the
// sequence numbers serve only for counting.
//
// Memory: an idle connection holds no buffer and no ring, so that tens of thousands of connections
// are cheap. Replies count against the budget, including the unused capacity of buffers that
// outlive the turn. While the budget is exhausted, a connection whose client does not even read the
// refusals is not read.
//
// Threads: one reactor. The RpcServer owns the connection. It frees the connection once it is
// closed, has no unanswered request and no running call, and is not on the server's list of
// connections to flush.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "src/io/reactor.h"
#include "src/rpc/thrift_codec.h"

namespace pando {

class RpcServer;

class RpcConnection final : public ConnectionHandler {
 public:
  RpcConnection(RpcServer* server, Connection* connection, bool refused);
  RpcConnection(const RpcConnection&) = delete;
  RpcConnection& operator=(const RpcConnection&) = delete;
  ~RpcConnection();

  void OnData(std::span<const char> data) override;
  void OnSent() override;
  void OnClosed(const Status& reason) override;

 private:
  friend class RpcServer;
  enum class State : uint8_t {
    kOpen,
    kRefused,  // over --max_connections: answer its first request with an error, then close
    kClosing,  // no more requests are read: answer the earlier ones, then close
    kClosed,   // the Connection no longer exists
  };
  struct Slot {
    std::string bytes;
    bool ready = false;
  };
  // A frame for which there was no memory. Its bytes are discarded; its head is kept so that it can
  // be answered.
  struct SkippedFrame {
    std::string head;
    size_t left = 0;
  };

  // Processes whole frames from `bytes` until a limit is reached or only a partial frame is left.
  // Returns the number of bytes processed.
  size_t Consume(std::string_view bytes);
  void ConsumePending();
  // Adds to the partial frame in pending_. Returns how many of `bytes` it took.
  size_t TopUp(std::string_view bytes);
  void Keep(std::string_view bytes);  // appends to pending_, or starts to skip
  void StartSkip(std::string head, size_t arrived);
  size_t Skip(std::string_view bytes);
  void FinishSkip();
  void OnFrame(std::string_view frame);
  // Handles a frame length that is not allowed: too long, zero, or not a length at all. Returns the
  // number of bytes taken.
  size_t OnBadLength(std::string_view bytes, uint32_t length);
  void RefuseFirstRequest(std::string_view bytes);
  void Garbage(std::string_view why);
  void AnswerOverloaded(std::string_view head);
  void CloseOverloaded();
  void ReleasePending();
  void CloseAfterReplies();

  // From now on no reply waits for another. Early replies that wait in the ring leave at the end of
  // this turn.
  void AllowOutOfOrder();
  std::string* BeginReply(uint32_t sequence);
  void EndReply(uint32_t sequence);
  void HandOver();  // gives `out_` to the connection
  void Flush();
  void Account();
  size_t ReplyBytes() const;
  size_t HeldBytes() const;  // the memory that those replies take
  bool HasRoom(uint32_t sequence, size_t call_bytes) const;
  bool HoldsUpReplies(uint32_t sequence) const { return !out_of_order_ && sequence == head_ && ring_bytes_ > 0; }
  bool AtLimit() const;     // must stop taking requests
  bool BelowLimit() const;  // may take requests again
  // Returns true while this turn may handle another frame of the connection.
  bool HasTurnLeft();
  void Pause();
  void MarkDirty();
  // Returns true if nothing is in progress and nothing was received since the last OnWatch.
  bool IsIdle() const;
  uint32_t unanswered() const { return next_ - head_; }
  bool Forgotten() const { return state_ == State::kClosed && running_ == 0 && !dirty_ && unanswered() == 0; }

  RpcServer* const server_;
  Connection* connection_;  // null once closed
  State state_;
  bool dirty_ = false;  // on the server's list of connections to flush
  bool paused_ = false;
  bool close_sent_ = false;
  bool out_of_order_ = false;
  uint32_t next_ = 0;     // the sequence number of the next request
  uint32_t head_ = 0;     // oldest unanswered request; if out of order, next_ minus their number
  uint32_t running_ = 0;  // calls that have not ended, even if answered at their deadline
  uint32_t list_index_ = 0;
  uint32_t work_turn_ = 0;  // the server's turn in which turn_work_ was done
  size_t turn_work_ = 0;

  std::string pending_;          // a partial frame, or frames held back by a limit
  size_t pending_reserved_ = 0;  // its reservation in the budget
  size_t pending_consumed_ = 0;  // bytes at its start that are handled; 0 unless paused_
  std::unique_ptr<SkippedFrame> skipped_;
  std::string out_;               // this turn's replies
  std::unique_ptr<Slot[]> ring_;  // early replies, indexed by sequence modulo its size
  size_t ring_bytes_ = 0, ring_capacity_ = 0;
  size_t handed_slack_ = 0;     // unused capacity of strings that connection_ is sending
  size_t accounted_bytes_ = 0;  // bytes of replies that are counted against the budget

  // For RpcServer::OnWatch. A direction is judged only while the peer owes progress in it.
  struct Progress {
    bool owed = false;
    Nanos since_ns = 0;       // start of the period that is judged
    uint64_t bytes_then = 0;  // bytes moved before the period
  };
  uint64_t received_bytes_ = 0;
  uint64_t read_then_ = 0;      // bytes that the peer had read a second ago; known while memory is short
  Progress reading_, writing_;  // the peer reads our replies; the peer writes the rest of a frame
  uint64_t received_when_active_ = 0;
  Nanos active_ns_ = 0;  // when the connection was last seen active
};

}  // namespace pando
