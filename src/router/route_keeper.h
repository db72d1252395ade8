// RouteKeeper: the map of the cluster, and the connections to its nodes, of one reactor of a router.
//
// It asks one node after the other for a newer map, and each waits until it has one (long poll), so a change comes
// within a round trip. When a request finds that the map is wrong, the nodes are asked at once, by one question at a
// time however many requests have found it (Refresh).
//
// --nodes says where to begin. Those addresses are kept besides the nodes of the map, so that a router finds the
// cluster again when all nodes have moved but one that it was told about.
//
// Threads: one reactor.
//
// Invariants
//   RK1  At most one long poll and one refresh are in progress.
//   RK2  The map is only of one cluster for the life of the process: that which all reactors follow (FC1).
//   RK3  What all nodes that answer contradict is not believed for long. A node may have lied, or the topology was put
//        back from a copy.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gen-cpp/Routing.h"
#include "src/io/reactor.h"
#include "src/io/sync.h"
#include "src/io/task.h"
#include "src/metrics/metrics.h"
#include "src/router/followed_cluster.h"
#include "src/router/long_work.h"
#include "src/router/route_map.h"
#include "src/router/upstream.h"

namespace pando {

struct RouteKeeperOptions {
  std::vector<std::string> seeds;  // host:port
  // How long a node may wait for a change, and how long it may take besides. Both are short: while a node is silent
  // that was asked, nobody else is.
  Nanos poll_ns = kSecond, answer_ns = 250 * kMillisecond;
  Nanos doubt_ns = 3 * kSecond;   // so long refreshes bring nothing before all nodes are asked for all that they know
  UpstreamOptions upstream;       // for all nodes, without the address
  LongWork* long_work = nullptr;  // outlives the keeper; null: what takes long has the memory of everything else
  // Of all reactors.
  std::shared_ptr<std::atomic<int64_t>> hlc = std::make_shared<std::atomic<int64_t>>(0);
  std::shared_ptr<FollowedCluster> cluster = std::make_shared<FollowedCluster>();
};

struct RouteKeeperMetrics {
  Counter polls_total, refreshes_total, map_changes_total, refused_maps_total, abandoned_total;
  UpstreamMetrics upstream;
};

// A call of a node that may be made again elsewhere, while it waits for the answer. When the map shows that the node
// is the wrong one by now, nobody waits for its answer any more: it may be silent.
class InFlight {
 public:
  virtual ~InFlight() = default;
  virtual bool Outdated(const RouteMap& map) const = 0;

 private:
  friend class RouteKeeper;
  RpcClient* client_ = nullptr;
  RpcExchange* exchange_ = nullptr;
  size_t index_ = 0;
};

class RouteKeeper {
 public:
  RouteKeeper(Reactor& reactor, RouteKeeperOptions options);
  ~RouteKeeper();  // REQUIRES: Stop has finished

  // `on_complete` is called when there is a map for the first time.
  void Start(std::function<void()> on_complete = {});
  // Ends the connections, and what waits for them or for the map. Stop waits until all of that has ended.
  void BeginStop();
  Task<void> Stop();

  Reactor& reactor() { return reactor_; }
  const RouteMap& map() const { return map_; }
  // Null: no such node, or its address is unknown.
  std::shared_ptr<Upstream> NodeOf(NodeId node) const;
  // A node that holds a replica in sync and is connected, but not `avoid`: of two picked at random, the one with fewer
  // calls in progress. The master, if there is none.
  NodeId ChooseReplica(const Route& route, NodeId avoid) const;
  // Whether a node that is connected, and is not `asked`, holds a replica in sync.
  bool HasAnother(const Route& route, NodeId asked) const;
  // By address: the nodes of the map, and those to begin with.
  const std::map<std::string, std::shared_ptr<Upstream>>& upstreams() const { return upstreams_; }
  // Some node that is connected; null: none.
  std::shared_ptr<Upstream> AnyNode();
  bool ready() const { return map_.complete(); }
  bool stopping() const { return stopping_; }
  LongWork* long_work() const { return options_.long_work; }

  // Asks the nodes for a newer map, unless that is being done.
  void Refresh();
  bool ApplyHint(uint32_t partition, std::string_view master_address, Epoch epoch);
  // How often something has happened that is worth another try: a change of the map, or a new connection.
  uint64_t news() const { return news_; }
  // Waits until there are more than `seen` of these, or until the deadline. Each waits by itself: many may wait for the
  // same partition, and the deadline of one wakes no other.
  struct NewsAwaiter : Timer {
    NewsAwaiter(RouteKeeper* k, uint64_t s, Nanos until) : keeper(k), seen(s), until_ns(until) {}
    RouteKeeper* keeper;
    uint64_t seen;
    Nanos until_ns;
    std::coroutine_handle<> handle;
    size_t index = 0;
    bool await_ready() const noexcept { return keeper->stopping_ || keeper->news_ != seen; }
    void await_suspend(std::coroutine_handle<> h);
    void await_resume() noexcept {}
  };
  NewsAwaiter UntilNews(uint64_t seen, Nanos deadline_ns) { return NewsAwaiter(this, seen, deadline_ns); }
  // Waits for a map, or until the deadline. kUnavailable says why there is none.
  Task<Status> UntilComplete(Nanos deadline_ns);
  // `exchange` is abandoned with kAborted when `call` is outdated. Both stay until Remove.
  void Add(InFlight* call, RpcClient* client, RpcExchange* exchange);
  void Remove(InFlight* call);
  // The highest version that a reply of any node has told of, on any reactor of this router. Writes carry it, so that a
  // snapshot that has a write has all that its writer has seen through this router.
  int64_t hlc() const { return options_.hlc->load(std::memory_order_relaxed); }
  void NoteHlc(int64_t hlc) {
    int64_t known = options_.hlc->load(std::memory_order_relaxed);
    while (hlc > known && !options_.hlc->compare_exchange_weak(known, hlc, std::memory_order_relaxed)) {
    }
  }
  // Why there is no map, or none newer.
  const Status& trouble() const { return trouble_; }
  // The master of the partition has refused a request for now: it has no lease, or too few replicas are in sync.
  void NoteRefusal(uint32_t partition, const std::string& why);
  // Those of the last ten seconds.
  std::map<uint32_t, std::string> Refusals() const;
  // Each of the seeds has answered once, or could not be reached.
  bool seeds_tried() const;
  // kUnavailable: one of the seeds belongs to another cluster, or all nodes of the map do.
  Status ForeignNodes() const;
  // By address: why nothing is sent there. A router that has its map serves all the same, as long as any node of its
  // cluster is left.
  std::map<std::string, std::string> foreign() const { return options_.cluster->foreign(); }
  // Why this router should get no requests; empty: it is well.
  std::string WhyNotReady() const;

  RouteKeeperMetrics& metrics() { return metrics_; }

 private:
  Task<void> Poll();
  Task<void> AskAll();
  Status Refused(Status why);  // counts it, and logs it now and then
  Status Admit(const std::string& address, const Uuid& cluster);
  std::string WhyNoMap() const;  // of some of the nodes
  Status NoNodeLeft() const;
  void LogTrouble();
  // With `contradicts`, for all that it knows, and not only for what is news; sets it if the node has answered.
  Task<Status> AskMap(std::shared_ptr<Upstream> node, Nanos wait_ns, bool* contradicts = nullptr);
  // Whether all nodes that answer contradict what is known, and at least one does.
  Task<bool> IsContradicted();
  void AdoptNodes();
  void TellNews();
  void WakeAll();
  void OnMapChanged();
  std::shared_ptr<Upstream> MakeUpstream(const std::string& address);
  Task<void> StopUpstream(std::shared_ptr<Upstream> upstream);

  Reactor& reactor_;
  const RouteKeeperOptions options_;
  RouteKeeperMetrics metrics_;
  RouteMap map_;
  std::map<std::string, std::shared_ptr<Upstream>> upstreams_;  // by address
  size_t turn_ = 0;                                             // whose turn it is to be asked
  uint64_t news_ = 0;
  std::vector<InFlight*> in_flight_;
  std::vector<NewsAwaiter*> news_waiters_;
  WaitQueue changed_;  // news_, or stopping_
  TaskGroup tasks_;
  struct Refusal {
    Nanos at_ns = 0;
    std::string why;
  };
  std::map<uint32_t, Refusal> refusals_;  // by partition, at most kMaxRefusals
  bool stopping_ = false, refreshing_ = false;
  Nanos vain_since_ns_ = 0;  // refreshes have brought nothing since then; 0: the last one has
  Status trouble_;
  std::function<void()> on_complete_;
  Nanos next_log_ns_ = 0, next_trouble_log_ns_ = 0;
};

}  // namespace pando
