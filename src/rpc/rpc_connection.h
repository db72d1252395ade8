// RpcConnection: one client's connection. It cuts the byte stream into frames, and sends replies in request order, or
// as they become ready when the client agreed to that.
//
// A frame that arrives whole is handed on where it lies in the receive buffer; a half frame is gathered in `pending_`,
// which grows with what has arrived (never with what was claimed) and counts against the memory budget.
//
// Replies: a request gets the next sequence number. The reply that is next in order is encoded straight into `out_`;
// one that is early waits in the ring. Everything a turn produced goes out in one Send. After AllowOutOfOrder nothing
// waits: every reply is encoded straight into `out_`, and the sequence numbers only count.
//
// Memory: an idle connection holds no buffer and no ring, so that tens of thousands of them are cheap. What replies
// hold counts against the budget by the capacity of their buffers. While the budget is exhausted, a connection whose
// client does not even take the refusals is not read.
//
// Threads: one reactor. Owned by its RpcServer, and freed once it is closed, has no running call and is not on the
// server's list of connections to flush.
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

  void OnData(std::span<const char> bytes) override;
  void OnSent() override;
  void OnClosed(const Status& reason) override;

 private:
  friend class RpcServer;
  enum class State : uint8_t {
    kOpen,
    kRefused,  // one connection too many: its first request is answered with why, then it is closed
    kClosing,  // the stream cannot be trusted any more: answer what was asked before, then close
    kClosed,   // the Connection is gone
  };
  struct Slot {
    std::string bytes;
    bool ready = false;
  };
  // A frame for which there was no memory: its bytes are passed over, its head is kept so that it can be answered.
  struct SkippedFrame {
    std::string head;
    size_t left = 0;
  };

  // Takes whole frames off `bytes` until a limit is reached or only a half frame is left; returns the bytes taken.
  size_t Consume(std::string_view bytes);
  void ConsumePending();
  // Tops up the half frame in pending_; returns how many of `bytes` it took.
  size_t TopUp(std::string_view bytes);
  void Keep(std::string_view bytes);  // appends to pending_, or starts to skip the frame
  void StartSkip(std::string head, size_t arrived);
  size_t Skip(std::string_view bytes);
  void OnFrame(std::string_view frame);
  // A length that no frame may have: too long, or other bytes altogether. Returns the bytes taken.
  size_t OnBadLength(std::string_view bytes, uint32_t length);
  void RefuseFirstRequest(std::string_view bytes);
  void Garbage(std::string_view why);
  void AnswerOverloaded(std::string_view head);
  void CloseOverloaded();
  void ReleasePending();
  void CloseAfterReplies();

  // From now on no reply waits for another. Those that wait already leave with this turn.
  void AllowOutOfOrder();
  std::string* BeginReply(uint32_t sequence);
  void EndReply(uint32_t sequence);
  void Flush();
  void Account();
  size_t ReplyBytes() const;
  size_t HeldBytes() const;  // what ReplyBytes take in memory
  bool HasRoom(uint32_t sequence, size_t call_bytes) const;
  bool AtLimit() const;     // takes no more requests
  bool BelowLimit() const;  // takes them again
  void Pause();
  void MarkDirty();
  uint32_t unanswered() const { return next_ - head_; }
  bool Forgotten() const { return state_ == State::kClosed && running_ == 0 && !dirty_ && unanswered() == 0; }

  RpcServer* const server_;
  Connection* connection_;  // null when closed
  State state_;
  bool dirty_ = false;  // on the server's list
  bool paused_ = false;
  bool close_sent_ = false;
  bool out_of_order_ = false;
  uint32_t next_ = 0;     // sequence number of the next request
  uint32_t head_ = 0;     // the oldest unanswered one; out of order: next_ less the unanswered ones
  uint32_t running_ = 0;  // calls that have not ended; a call past its deadline is answered but still runs
  uint32_t list_index_ = 0;

  std::string pending_;          // received, not yet taken: a half frame, or what waits for a limit
  size_t pending_reserved_ = 0;  // its share of the budget
  std::unique_ptr<SkippedFrame> skipped_;
  std::string out_;               // this turn's replies
  std::unique_ptr<Slot[]> ring_;  // early replies, by sequence modulo its size
  size_t ring_bytes_ = 0, ring_capacity_ = 0;
  size_t handed_slack_ = 0;     // capacity beyond their bytes, of strings handed to the connection and not yet sent
  size_t accounted_bytes_ = 0;  // replies that count against the budget

  // For RpcServer::OnWatch. A direction is watched while the peer owes progress in it.
  struct Progress {
    bool owed = false;
    Nanos since_ns = 0;       // begin of the period that is judged
    uint64_t bytes_then = 0;  // what had moved by then
  };
  uint64_t received_bytes_ = 0;
  Progress reading_, writing_;  // of the peer: it takes our replies, it sends the rest of a frame
  uint64_t received_when_active_ = 0;
  Nanos active_ns_ = 0;  // when the connection was last seen not to be idle
};

}  // namespace pando
