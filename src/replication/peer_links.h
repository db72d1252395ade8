// PeerLinks connects one reactor with the reactors of the other nodes of its cluster, and carries
// messages (messages.h) between them.
//
// A link is a connection that this side opens, to one reactor of another node. It is kept up in the
// background. Messages travel on it in one direction only: what the other side has to say comes over
// the link that the other side opens. So there is never a question which of two connections counts,
// and each side finds and repairs the faults of what it sends on. What comes back on a link is only
// the answer to the hello, and pongs.
//
// The messages of a turn, of all partitions, leave in one send for each link. Heartbeats, promises
// and the like (IsControl) leave ahead of data that still waits here. What waits is bounded, and
// reserved first; what finds no room is refused, because the protocol is built for lost messages. For
// the same reason all that waits is dropped when a link is lost.
//
// Who connects here is a stranger until its hello was accepted. Strangers are few (max_strangers, the
// newest stay), have little time, and only a small buffer.
//
// Threads: one reactor. The MemoryBudget is shared.
//
// Invariants
//   LK1  What waits on links, and what has arrived of frames, is reserved in the budget before it is
//       allocated, and bounded for each link (max_queue_bytes, max_control_bytes) and for each
//       connection (one frame).
//   LK2  Messages of a node reach the handler only from its newest process that is connected, and only from
//       one connection of each of that process's reactors: the newest, but a connection that is still heard is
//       not replaced by another one of the same process. What a hello claims counts only as long as its
//       connection lasts.
//   LK3  Nothing of a connection reaches the handler before its hello was accepted: the same cluster,
//       this node and reactor, a node of the topology, a protocol that both sides speak. Of a guard
//       nothing but a death notice of its own node does.
//   LK4  A connection whose other end is silent, does not read, or stops within a frame ends within a
//       bounded time (hello_limit_ns, frame_limit_ns, ping_period_ns + ping_limit_ns).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/base/memory_budget.h"
#include "src/io/byte_filter.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/replication/wire.h"

namespace pando::replication {

class PeerLink;
class PeerInbound;

struct PeerOptions {
  Uuid cluster_id;
  NodeId node = 0;           // this one
  uint32_t reactor = 0;      // this one
  uint64_t incarnation = 0;  // of this process (NodeRecord::starts)
  // What this build speaks, and the version that the cluster speaks now. See SetProtocol.
  uint32_t protocol_min = kProtocolMin, protocol_max = kProtocolMax;
  uint32_t protocol = kProtocolMax;

  // Of data, and of all else, that waits on one link. The last message that is taken may exceed them.
  size_t max_queue_bytes = 2u << 20;
  size_t max_control_bytes = 1u << 20;
  size_t max_handed_bytes = 256u << 10;  // what a socket gets at a time, so that control can overtake the rest
  uint32_t max_strangers = 8;
  bool newest_process_only = true;  // Rules::hello_is_of_newest_process
  uint32_t max_reactors = 256;      // of a node, as long as the topology does not say how many it has
  uint64_t max_starts_ahead = 64;   // of SetStarts

  Nanos connect_limit_ns = kSecond;
  Nanos hello_limit_ns = 3 * kSecond;   // for the hello, and for its answer
  Nanos frame_limit_ns = 10 * kSecond;  // from the first byte of a frame to its last
  Nanos ping_period_ns = 500 * kMillisecond;
  Nanos ping_limit_ns = 3 * kSecond;
  // The pause between two attempts to connect doubles from one to the other; half of it is random.
  Nanos min_backoff_ns = 20 * kMillisecond, max_backoff_ns = kSecond;

  // For connections that come in and for those that go out. They must outlive the links; null: none.
  ByteFilters* accept_filters = nullptr;
  ByteFilters* connect_filters = nullptr;
};

struct PeerMetrics {
  Gauge links, links_up;                                      // outgoing; and those among them that carry messages
  Gauge accepted, strangers;                                  // incoming
  Gauge buffered_bytes;                                       // reserved for what waits or has arrived in part
  Counter connected_total, lost_total, connect_failed_total;  // outgoing; lost: after it was up
  Counter accepted_total, refused_total;                      // hellos of others
  Counter refused_by_peer_total;                              // own hellos
  Counter garbage_total, timeout_total, replaced_total, displaced_total;
  Counter sent_messages_total, received_messages_total, sent_bytes_total, received_bytes_total;
  // Messages that found no room, and those that waited when their link was lost.
  Counter refused_messages_total, dropped_messages_total;
  Counter dropped_frames_total;  // that arrived when there was no memory for them
  FilterMetrics filters;
};

class PeerHandler {
 public:
  // A message for a replica of this reactor, in the turn in which it arrived. `partition` is the
  // partition's ID. Whether the replica `message.from` is one of node `from`, and `message.to` one of
  // this node, is for the handler to check. May call PeerLinks, but not Close.
  virtual void OnMessage(uint32_t partition, NodeId from, const Message& message) = 0;
  // The guard of that node has seen its process exit.
  virtual void OnDeathNotice(NodeId node, uint64_t incarnation) = 0;
  // A connection to a reactor of that node has come up, or one from it. What was said before may have been dropped.
  // May call PeerLinks, but not Close.
  virtual void OnConnected(NodeId) {}

 protected:
  ~PeerHandler() = default;
};

class PeerLinks final : public AcceptHandler, private TurnHook {
 public:
  // The budget and the handler must outlive Close.
  PeerLinks(Reactor& reactor, PeerOptions options, MemoryBudget* budget, PeerHandler* handler);
  ~PeerLinks();  // REQUIRES: Close has returned

  // Listens for the other nodes; one listener for each reactor, on a port of its own. Sets the kind to
  // ListenerKind::kPeer. Returns the port.
  Result<uint16_t> Listen(ListenOptions options);

  // All other nodes of the topology, and where each of their reactors listens ("host:port"). A node may
  // have no address, or "" for some of its reactors: there is no link to those. Replaces what was set before; links
  // whose address stays, stay. kInvalidArgument: an address is none; nothing has changed.
  Status SetAddresses(std::map<NodeId, std::vector<std::string>> addresses);
  // How often each node has been started, as the topology says: its processes have no higher incarnation. A hello of
  // one that is much higher is refused, and only a little is allowed for news that are late. 0: not known.
  void SetStarts(std::map<NodeId, uint64_t> starts) { starts_ = std::move(starts); }
  // A process of the node is certainly known to have started: older ones are not listened to any more.
  void SawIncarnation(NodeId node, uint64_t incarnation);
  // The cluster's active version has changed. Links connect anew with it. A version that this build
  // does not speak ends all links; the reason is logged.
  void SetProtocol(uint32_t protocol);
  // Queues a message to a replica on that reactor of that node. Returns false when there is no room for
  // it, or no connection now. Control messages and data each keep their order.
  bool Send(NodeId node, uint32_t reactor, uint32_t partition, const Message& message);
  // Waits until that link has room for data: at most half of its queue is in use. Returns false if it is not
  // up, or is lost meanwhile, and once Close has begun.
  Task<bool> UntilRoom(NodeId node, uint32_t reactor);
  bool IsUp(NodeId node, uint32_t reactor) const;
  // Why that link carries nothing now, for reports. OK if it is up.
  Status WhyDown(NodeId node, uint32_t reactor) const;

  // Ends everything and waits for it. What waits is dropped.
  Task<void> Close();

  uint32_t protocol() const { return protocol_; }
  const PeerMetrics& metrics() const { return metrics_; }
  const PeerOptions& options() const { return options_; }

 private:
  friend class PeerLink;
  friend class PeerInbound;
  using LinkKey = std::pair<NodeId, uint32_t>;
  struct WatchTimer : Timer {
    PeerLinks* links = nullptr;
  };

  void OnAccept(Connection* connection) override;
  void OnTurnEnd() override;
  void OnWatch();
  Connection* Filtered(Connection* connection, ByteFilters* filters);
  Task<void> RunLink(PeerLink* link);
  void StopLink(std::unique_ptr<PeerLink> link);
  void DisplaceStranger();
  HelloReply Judge(const PeerHello& hello) const;
  // Another connection of the same reactor of the same process is still heard. That process opens no second one, so
  // somebody else may say its name. The answer waits until the other one ends, or is silent.
  bool IsTaken(const PeerInbound& by) const;
  void AdmitWaiting();
  // `inbound` is accepted: whoever it replaces is closed.
  void OnAccepted(PeerInbound* inbound);
  void Remove(PeerInbound* inbound);
  void MarkDirty(PeerLink* link);
  // A process of the node is connected: what is connected with older ones ends.
  void EndOlder(NodeId node, uint64_t incarnation);
  // Of what SawIncarnation has said, and of what is connected now, in either direction.
  uint64_t NewestIncarnation(NodeId node) const;
  PeerLink* Find(NodeId node, uint32_t reactor) const;
  void CountInbound();
  void LogLimited(const std::string& message);

  Reactor& reactor_;
  const PeerOptions options_;
  PeerHandler* const handler_;
  BudgetAccount account_;
  PeerMetrics metrics_;
  uint32_t protocol_;
  std::map<NodeId, std::vector<std::string>> addresses_;
  std::map<NodeId, uint64_t> incarnations_;  // of SawIncarnation
  std::map<NodeId, uint64_t> starts_;
  std::map<LinkKey, std::unique_ptr<PeerLink>> links_;
  std::vector<std::unique_ptr<PeerLink>> ending_;  // stopped, but their tasks have not ended
  std::vector<std::unique_ptr<PeerInbound>> inbound_;
  std::vector<PeerLink*> dirty_;  // have something to send at the end of this turn
  WaitQueue room_;                // a link came up, has room, or all is closing
  WaitQueue quiet_;               // Close waits for connections
  size_t room_waiters_ = 0;       // calls of UntilRoom in progress
  TaskGroup tasks_;
  WatchTimer watch_;
  bool closing_ = false, listening_ = false;
  Nanos next_log_ns_ = 0;
  uint64_t unlogged_ = 0;
};

}  // namespace pando::replication
