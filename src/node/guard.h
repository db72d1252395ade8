// The guard of a node: a small process that is the node's parent. It holds no data and bears no load. When the
// node's process has ended, which waitpid proves, it tells the other nodes so. They then need not wait until the
// leases of that process have run out: a process that does not exist answers no reads.
//
//   guard (the main process of a supervisor) --- pipe --- node
//
// The node tells its guard through the pipe whom to notify; the end of the pipe says that the node has ended. The
// guard passes signals on, and ends as the node has ended: with its exit code, or by the same signal. If the guard
// is killed, the node is asked to stop (SIGTERM).
//
// Threads: RunGuarded is called before there is any thread. GuardLink belongs to one reactor.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/base/ids.h"
#include "src/io/task.h"
#include "src/replication/members.h"

namespace pando {

// What the guard must know about the node, its process, and the others.
struct GuardNews {
  Uuid cluster_id;
  NodeId node = 0;
  uint64_t incarnation = 0;
  uint32_t protocol = 0;
  std::map<NodeId, std::vector<std::string>> peers;  // the addresses of their reactors
  bool operator==(const GuardNews&) const = default;
};

// A line of JSON, and back. kCorruption: it is none.
std::string EncodeGuardNews(const GuardNews& news);
Result<GuardNews> DecodeGuardNews(const std::string& line);

class Reactor;

// What the guard does once the process has ended: tells every reactor of `news->peers`, as far as it answers.
// `news` outlives the call.
Task<void> NotifyPeers(Reactor* reactor, const GuardNews* news);

// Forks. Returns in the node's process, with the descriptor of the pipe for a GuardLink, or -1 if there could be no
// guard (which is logged). The guard never returns.
int RunGuarded();

// The node's end of the pipe.
class GuardLink {
 public:
  // `descriptor`: of RunGuarded; -1: there is no guard.
  explicit GuardLink(int descriptor) : descriptor_(descriptor) {}
  // What the guard has not taken yet goes with the next call; so call this from time to time.
  void Tell(const GuardNews& news);

 private:
  const int descriptor_;
  std::string told_, unsent_;
};

}  // namespace pando
