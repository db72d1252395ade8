// The sockets of the simulated kernel.
//
// SimNetwork owns the two ends of every connection, and moves bytes between them in order, with
// latency, in random chunks. Tests inject network faults here. SimReactorNetwork is the part of one
// reactor: what its next turn has to deliver.
//
// A machine whose process crashed resets its connections. A machine that lost power goes silent,
// and answers with resets when it runs again.
//
// Invariants
//   K5  Within a connection, bytes arrive once and in order, as with TCP, or the connection ends.
//       Between connections there is no order: a sender may connect again, and bytes on the new
//       connection may overtake those on the old one, even those of a process that is dead (Hold).
//       Bytes of one connection never arrive at another one, or at a later process of the receiver.
//
// Threads: one, that of the simulation.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "src/io/connection_budget.h"
#include "src/io/reactor.h"

namespace pando {

class SimKernel;
class SimMachine;
class SimReactor;
class SimNetwork;

class SimConnection final : public Connection {
 public:
  void SetHandler(ConnectionHandler* handler) override;
  void Send(std::string* bytes) override;
  size_t unsent_bytes() const override { return outgoing_.size() - sent_; }
  uint64_t acknowledged_bytes() const override { return acknowledged_; }
  void PauseReceive() override { paused_ = true; }
  void ResumeReceive() override;
  void Close(bool now) override;

 private:
  friend class SimNetwork;
  struct Segment {
    std::string bytes;
    bool end = false;  // the sender's FIN
    bool reset = false;
  };
  SimNetwork* network_ = nullptr;
  SimReactor* reactor_ = nullptr;
  uint64_t id_ = 0, peer_id_ = 0;
  std::string local_host_, remote_host_;
  ConnectionHandler* handler_ = nullptr;
  bool paused_ = false, closing_ = false;
  bool send_pending_ = false;  // Send got bytes after the last OnSent
  bool told_ = false;          // OnClosed was called
  std::string outgoing_;
  size_t sent_ = 0;            // bytes of outgoing_
  std::deque<Segment> wire_;   // in transit to this end
  std::deque<Segment> inbox_;  // arrived, not delivered yet
  Nanos last_arrival_ns_ = 0;
  Nanos held_until_ns_ = 0;      // what comes to this end arrives no earlier
  bool peer_lost_ = false;       // the other end has forgotten this connection: nothing answers
  size_t vanished_bytes_ = 0;    // sent since then
  bool silent_ = false;          // the other end is not told of the end of this one
  size_t window_used_ = 0;       // bytes in wire_ and inbox_
  uint64_t acknowledged_ = 0;    // bytes from this end that the other end has consumed
  std::shared_ptr<void> place_;  // in the listener's ConnectionBudget
  bool marked_flush_ = false, marked_deliver_ = false;
};

// The work for the next turn of one reactor.
struct SimReactorNetwork {
  struct Listener {
    std::string host;
    uint16_t port = 0;
    AcceptHandler* handler = nullptr;
    ListenerKind kind = ListenerKind::kClient;
    ConnectionBudget* budget = nullptr;  // of that kind; null: no limit
  };
  struct Accepted {
    uint64_t connection;
    AcceptHandler* handler;
  };
  std::vector<Listener> listeners;
  std::vector<Accepted> accepted;
  std::vector<uint64_t> to_flush, to_deliver;
  bool has_work() const { return !accepted.empty() || !to_flush.empty() || !to_deliver.empty(); }
};

class SimNetwork {
 public:
  explicit SimNetwork(SimKernel* kernel) : kernel_(kernel) {}
  ~SimNetwork();

  // -- faults While a path is cut, bytes from `from` to `to` wait, as with retransmission, and new
  // connections get no answer.
  void Cut(const std::string& from, const std::string& to) { cuts_.insert({from, to}); }
  void Heal(const std::string& from, const std::string& to) { cuts_.erase({from, to}); }
  void CutBoth(const std::string& a, const std::string& b) { Cut(a, b), Cut(b, a); }
  // Ends all cuts, delays and holds.
  void HealAll();
  // Every segment from `from` to `to` takes a random time between both.
  void SetLatency(const std::string& from, const std::string& to, Nanos min_ns, Nanos max_ns) {
    latencies_[{from, to}] = {min_ns, max_ns};
  }
  // The bytes of the connections that exist now arrive no earlier than `until_ns`, also when their
  // sender is gone by then. Connections that are made later are not affected.
  void Hold(const std::string& from, const std::string& to, Nanos until_ns);
  // The ends of connections to `peer` at `machine` end. The other ends learn nothing: what they send
  // is lost. (A half-open connection, as a firewall that restarts leaves it.)
  void Forget(const std::string& machine, const std::string& peer);
  // Resets all connections between the two machines.
  void ResetConnections(const std::string& a, const std::string& b);
  size_t connections() const { return connections_.size(); }

 private:
  friend class SimConnection;
  friend class SimReactor;
  friend class SimMachine;
  struct ConnectOp;

  Result<uint16_t> Listen(SimReactor* reactor, const ListenOptions& options, AcceptHandler* handler);
  Task<Result<Connection*>> Connect(SimReactor* reactor, std::string host, uint16_t port, Nanos timeout_ns);
  void Attempt(uint64_t connect_id, SimReactor* origin, std::string host, uint16_t port);
  void Deliver(SimReactor* reactor);  // an early step of a turn
  void Flush(SimReactor* reactor);    // the last step of a turn
  void OnMachineStopped(SimMachine* machine, bool silent);

  SimConnection* Find(uint64_t id);
  SimConnection* NewEnd(SimReactor* reactor, std::string local_host, std::string remote_host);
  void MarkFlush(SimConnection* c);
  void MarkDeliver(SimConnection* c);
  void FlushOne(uint64_t id);
  void DeliverOne(uint64_t id);
  void Pump(SimConnection* c);
  void Transmit(SimConnection* from, SimConnection::Segment segment);
  void Arrive(uint64_t to_id);
  void SendReset(uint64_t to_id);
  void Consumed(SimConnection* c, size_t bytes);
  void End(SimConnection* c, const Status& reason);
  Nanos Latency(const std::string& from, const std::string& to);
  bool IsCut(const std::string& from, const std::string& to) const { return cuts_.contains({from, to}); }

  SimKernel* kernel_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::unique_ptr<SimConnection>> connections_;
  std::map<uint64_t, ConnectOp*> connecting_;
  std::set<std::pair<std::string, std::string>> cuts_;
  std::map<std::pair<std::string, std::string>, std::pair<Nanos, Nanos>> latencies_;
};

}  // namespace pando
