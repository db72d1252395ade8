#include "tests/sim/cluster_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "src/node/guard.h"
#include "src/replication/hosted_replica.h"
#include "src/topology/cluster_init.h"
#include "tests/support/linearizability.h"

namespace pando {
namespace {

constexpr Nanos kStartsWithin = 20 * kSecond;
constexpr Nanos kFaultsWithin = 60 * kSecond;
constexpr Nanos kHealsWithin = 60 * kSecond;
constexpr Nanos kClosesWithin = 30 * kSecond;
constexpr int64_t kExpiresMs = 700;

}  // namespace

void ClusterCounts::Add(const ClusterCounts& other) {
  static_assert(std::is_trivially_copyable_v<ClusterCounts> && sizeof(ClusterCounts) % sizeof(uint64_t) == 0);
  std::array<uint64_t, sizeof(ClusterCounts) / sizeof(uint64_t)> sums, more;
  std::memcpy(sums.data(), this, sizeof(*this));
  std::memcpy(more.data(), &other, sizeof(other));
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += more[i];
  std::memcpy(static_cast<void*>(this), sums.data(), sizeof(*this));
}

ClusterWorld::ClusterWorld(uint64_t seed, ClusterOptions options)
    : seed_(seed), options_(options), random_(seed * 0x9e3779b97f4a7c15ull + 7), kernel_(seed) {
  static constexpr int kSizes[] = {3, 3, 3, 4, 4, 5};
  const int size = kSizes[random_.Below(std::size(kSizes))];
  partitions_ = 1u << random_.Below(3);
  began_ns_ = kernel_.now_ns();
  static constexpr uint64_t kSegments[] = {64u << 10, 256u << 10, 1u << 20};
  log_segment_bytes_ = kSegments[random_.Below(std::size(kSegments))];
  checkpoint_ns_ = Between(200 * kMillisecond, 2 * kSecond);
  value_bytes_ = static_cast<int>(random_.Chance(0.5) ? random_.Below(100) : random_.Below(8000));
  think_ns_ = Between(2, 40) * kMillisecond;
  kernel_.options().boot_clock_restarts = random_.Chance(0.5);
  for (int i = 0; i < size; ++i) {
    auto node = std::make_unique<Node>();
    node->id = static_cast<NodeId>(i + 1);
    node->machine = kernel_.AddMachine(fmt::format("10.0.0.{}", i + 1));
    node->machine->SetClockRate(random_.Between(-10'000, 10'000));
    node->machine->SetClockSkewMs(random_.Between(-2000, 2000));
    nodes_.push_back(std::move(node));
  }
  guards_ = kernel_.AddMachine("10.0.1.1");
  guards_->Boot();
  committed_.resize(partitions_);
  for (int i = 0; i < kClients + kLoyalClients; ++i) {
    clients_.push_back(std::make_unique<Client>());
    clients_.back()->index = i;
    clients_.back()->targets.resize(partitions_);
  }
}

// What a crash has left of a process stays where it is (K3).
ClusterWorld::~ClusterWorld() {
  static auto* kept = new std::vector<std::unique_ptr<ClusterMember>>;
  for (auto& node : nodes_) {
    if (node->owned) {
      node->machine->ProcessCrash(1);
      kept->push_back(std::move(node->owned));
    }
  }
}

void ClusterWorld::Tell(const std::string& what) {
  const std::string line = fmt::format(
      "{:10.3f} ms  {}", static_cast<double>(kernel_.now_ns() - began_ns_) / static_cast<double>(kMillisecond), what);
  if (options_.tells) fprintf(stderr, "%s\n", line.c_str());
  story_.push_back(line);
}

std::string ClusterWorld::Story() const {
  std::string text;
  for (const std::string& line : story_) text += line + "\n";
  return text;
}

std::string ClusterWorld::Summary() const {
  return fmt::format(
      "{} nodes, {} partitions, {} operations done, {} refused, {} unknown, {} faults, {} crashes, {} handovers, "
      "{} copies wanted, {} held, {} at ONE, {} at ALL, {} BOUNDED, {} SESSION (of both, {} at followers, {} too "
      "stale, "
      "{} lost), {} events, {:.1f} s simulated",
      nodes_.size(), partitions_, counts_.done, counts_.refused, counts_.unknown, counts_.faults, counts_.crashes,
      counts_.handovers, counts_.installs, counts_.held, counts_.ones, counts_.alls, counts_.bounded, counts_.sessions,
      counts_.by_followers, counts_.stale, counts_.lost, kernel_.events(),
      static_cast<double>(kernel_.now_ns() - began_ns_) / kSecond);
}

bool ClusterWorld::RunUntil(const std::function<bool()>& done, Nanos within_ns) {
  const Nanos end_ns = kernel_.now_ns() + within_ns;
  while (wrong_.empty() && kernel_.now_ns() < end_ns) {
    if (done()) return true;
    kernel_.RunFor(10 * kMillisecond);
  }
  return wrong_.empty() && done();
}

bool ClusterWorld::BecomesWhole() {
  CreateCluster();
  Say("seed {}: {} nodes, {} partitions, segments of {} bytes, checkpoints every {} ms", seed_, nodes_.size(),
      partitions_, log_segment_bytes_, checkpoint_ns_ / kMillisecond);
  for (auto& node : nodes_) At(Between(0, 100 * kMillisecond), [this, n = node.get()] { Boot(*n); });
  At(20 * kMillisecond, [this] { Watch(); });
  if (!RunUntil([this] { return WhyNotWhole().empty(); }, kStartsWithin)) {
    if (wrong_.empty()) Wrong("the cluster does not become whole after its first start: " + WhyNotWhole());
    return false;
  }
  Say("the cluster is whole");
  ++counts_.seeds;
  return true;
}

std::string ClusterWorld::Run() {
  if (!BecomesWhole()) return wrong_;
  clients_on_ = faults_on_ = true;
  for (auto& client : clients_) At(Between(0, think_ns_), [this, c = client.get()] { ClientNext(*c); });
  At(Between(100, 600) * kMillisecond, [this] { NextFault(); });
  const Plot plot = options_.calm ? Plot::kNone : PlotOf(seed_);
  plot_goes_on_ = plot != Plot::kNone;
  if (plot_goes_on_) At(Between(50, 500) * kMillisecond, [this, plot] { RunPlot(this, plot); });
  const Nanos end_ns = kernel_.now_ns() + Between(4, 7) * kSecond;
  RunUntil([this, end_ns] { return kernel_.now_ns() >= end_ns && !plot_goes_on_; }, kFaultsWithin);
  if (wrong_.empty() && plot_goes_on_) Wrong("the plot does not end");
  faults_on_ = false;
  healed_ns_ = kernel_.now_ns();
  HealAll();
  RunUntil([] { return false; }, kSecond);
  if (!EndsWhole()) return wrong_;
  RunUntil([] { return false; }, 2 * kExpiresMs * kMillisecond);
  CompareReplicas();
  ReadAllKeys();
  JudgeHistory();
  JudgeLevels();
  if (wrong_.empty()) CloseAll();
  counts_.events = kernel_.events();
  return wrong_;
}

bool ClusterWorld::EndsWhole() {
  clients_on_ = false;
  if (!RunUntil([this] { return WhyNotWhole().empty() && calls_open_ == 0; }, kHealsWithin)) {
    if (wrong_.empty()) {
      Wrong(fmt::format("I13: {} s after all faults the cluster is not whole: {}; {} calls are open",
                        kHealsWithin / kSecond, WhyNotWhole(), calls_open_));
    }
    return false;
  }
  Say("the cluster is whole again");
  return true;
}

Nanos ClusterWorld::WritesP99() {
  std::vector<Nanos> times = std::exchange(write_ns_, {});
  if (times.size() < 100) return 0;
  const auto at = times.begin() + static_cast<int64_t>(times.size() * 99 / 100);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

std::string ClusterWorld::RunWithSlowDisk(SlowDisk* result) {
  think_ns_ = 4 * kMillisecond;
  if (!BecomesWhole()) return wrong_;
  // Disks of which ten times the time of a sync is worth an eviction.
  const Nanos least_ns = 4 * kernel_.options().disk_min_ns, most_ns = 4 * kernel_.options().disk_max_ns;
  for (auto& node : nodes_) node->machine->SetDiskLatency(least_ns, most_ns);
  clients_on_ = true;
  for (auto& client : clients_) ClientNext(*client);
  RunUntil([] { return false; }, kSecond);
  WritesP99();
  RunUntil([] { return false; }, 3 * kSecond);
  result->before_p99_ns = WritesP99();
  const PartitionRecord record = Record(0).record;
  Node* slow = nullptr;
  for (const ReplicaRecord& r : record.isr) {
    if (r.replica != record.master) slow = nodes_[r.node - 1].get();
  }
  Say("the disk of {} is ten times as slow", slow->name());
  slow->machine->SetDiskLatency(10 * least_ns, 10 * most_ns);
  RunUntil([] { return false; }, 2 * kSecond);
  result->slow_p99_ns = WritesP99();
  RunUntil([] { return false; }, 3 * kSecond);
  result->after_p99_ns = WritesP99();
  Say("writes took {} us before, {} us at first, {} us after two seconds (99th percentile)",
      result->before_p99_ns / kMicrosecond, result->slow_p99_ns / kMicrosecond, result->after_p99_ns / kMicrosecond);
  HealAll();
  if (!EndsWhole()) return wrong_;
  JudgeHistory();
  if (wrong_.empty()) CloseAll();
  return wrong_;
}

void ClusterWorld::CreateCluster() {
  ClusterPlan plan;
  for (auto& node : nodes_) plan.nodes.push_back({.id = node->id, .zone = "", .weight = 1});
  plan.partitions = partitions_;
  plan.replicas = 3;
  plan.min_isr = 2;
  SimReactor& reactor = *guards_->reactor();
  uint64_t uuids = 0;
  Topology topology(reactor, std::make_unique<SimTopology>(reactor, &server_));
  auto created = kernel_.RunTask(reactor, pando::CreateCluster(
                                              topology, plan,
                                              [this, &uuids] {
                                                return Uuid{seed_ + 1, ++uuids};
                                              },
                                              5 * kSecond));
  CHECK((*created).ok()) << (*created).status().ToString();
  CHECK(kernel_.RunTask(reactor, topology.Close())->ok());
}

// -- processes

void ClusterWorld::Boot(Node& node) {
  if (node.state != State::kDown) return;
  node.machine->ClearFaults();
  node.machine->Boot();
  node.state = State::kStarting;
  ++node.life;
  ClusterMemberOptions options;
  options.node = node.id;
  options.engine.memory_bytes = Engine::MinMemoryBytes(4096, 2 * partitions_, partitions_, true) + (1u << 20);
  options.rules = options_.rules;
  options.engine.log_segment_bytes = log_segment_bytes_;
  options.engine.log_budget_bytes = std::max<uint64_t>(16 * log_segment_bytes_, 4u << 20);
  options.engine.reader_retained_bytes = 4 * log_segment_bytes_;
  options.engine.checkpoint_interval_ns = checkpoint_ns_;
  node.owned = std::make_unique<ClusterMember>(node.machine, options);
  node.member = node.owned.get();
  Say("{} starts its process {}", node.name(), node.life);
  RunStart(this, &node, node.life);
}

detail::FireAndForget ClusterWorld::RunStart(ClusterWorld* world, Node* node, uint64_t life) {
  ClusterMember* member = node->member;
  auto topology = std::make_unique<SimTopology>(member->reactor(), &world->server_, node->faults);
  node->topology = topology.get();
  const Status status = co_await member->Start(std::move(topology));
  world->Started(*node, life, status);
}

void ClusterWorld::Started(Node& node, uint64_t life, const Status& status) {
  if (node.life != life || node.state != State::kStarting) return;
  if (status.ok()) {
    Say("{} is up", node.name());
    node.state = State::kUp;
    return;
  }
  Say("{} could not start: {}", node.name(), status.ToString());
  node.state = State::kUp;
  if (!faults_on_ && status.code() != Code::kUnavailable && status.code() != Code::kDeadline) {
    Wrong(fmt::format("{} cannot start: {}", node.name(), status.ToString()));
  }
  BeginStop(node);
}

void ClusterWorld::BeginStop(Node& node) {
  if (node.state != State::kUp) return;
  node.state = State::kStopping;
  node.is_stopped = false;
  Say("{} stops", node.name());
  RunStop(this, &node, node.life);
}

detail::FireAndForget ClusterWorld::RunStop(ClusterWorld* world, Node* node, uint64_t life) {
  ClusterMember* member = node->member;
  node->topology = nullptr;
  // In a turn of its own.
  co_await Sleep(member->reactor(), kMicrosecond);
  Status status = co_await member->Stop();
  world->Stopped(*node, life, std::move(status));
}

void ClusterWorld::Stopped(Node& node, uint64_t life, Status status) {
  if (node.life != life || node.state != State::kStopping) return;
  Say("{} has stopped: {}", node.name(), status.ToString());
  if (const size_t files = node.member->reactor().open_files(); status.ok() && files != 0) {
    Wrong(fmt::format("{} has left {} files open", node.name(), files));
  }
  node.stopped = std::move(status);
  node.is_stopped = true;
}

void ClusterWorld::Crash(Node& node, bool power, bool guard_tells) {
  if (node.state == State::kDown) return;
  Audit();
  ++counts_.crashes;
  counts_.power_losses += power;
  Say("{} {}", node.name(), power ? "loses power" : "crashes");
  const uint64_t incarnation = node.member->incarnation();
  const uint64_t chance = random_.Next();
  if (power) {
    node.machine->PowerLoss(chance);
  } else {
    node.machine->ProcessCrash(chance);
  }
  static auto* kept = new std::vector<std::unique_ptr<ClusterMember>>;
  kept->push_back(std::move(node.owned));
  node.member = nullptr;
  node.topology = nullptr;
  node.state = State::kDown;
  // The guard of a machine without power tells nobody.
  if (!power && guard_tells && incarnation != 0 && random_.Chance(0.6)) {
    At(Between(0, 300 * kMillisecond), [this, n = &node, incarnation] { NotifyOfDeath(*n, incarnation); });
  }
}

void ClusterWorld::NotifyOfDeath(Node& node, uint64_t incarnation) {
  auto news = std::make_shared<GuardNews>();
  ClusterMap map;
  for (const auto& [key, entry] : server_.entries()) CHECK(map.Apply(entry).ok());
  news->cluster_id = map.cluster->record.cluster_id;
  news->node = node.id;
  news->incarnation = incarnation;
  news->protocol = map.cluster->record.protocol;
  for (const auto& [id, other] : map.nodes) {
    if (id != node.id) news->peers[id] = other.record.peer_addresses;
  }
  Say("the guard of {} tells of the end of process {}", node.name(), incarnation);
  RunNotice(guards_->reactor(), std::move(news));
}

detail::FireAndForget ClusterWorld::RunNotice(SimReactor* reactor, std::shared_ptr<GuardNews> news) {
  co_await NotifyPeers(reactor, news.get());
}

void ClusterWorld::Watch() {
  Audit();
  for (auto& owned : nodes_) {
    Node& node = *owned;
    if (node.state == State::kUp && node.member->serving() && !node.member->failure().ok()) {
      Say("the engine of {} has failed: {}", node.name(), node.member->failure().ToString());
      if (random_.Chance(0.5)) {
        Crash(node, false);
      } else {
        BeginStop(node);
      }
    }
    // An operator starts a node again whose disk has failed. (What the replica has lost, it replaces itself.)
    if (node.state == State::kUp && node.member->serving() && !faults_on_ &&
        node.member->quarantine().code() == Code::kIoError) {
      Say("{} is started again, because {}", node.name(), node.member->quarantine().ToString());
      BeginStop(node);
    }
    // Or whose log says that its partitions cannot be changed until then: the sync of store.meta has failed.
    if (node.state == State::kUp && node.member->serving() && node.failed_in_life == node.life && healed_ns_ != 0 &&
        kernel_.now_ns() - healed_ns_ > kHealsWithin / 3 && !WhyNotWhole().empty()) {
      Say("{} is started again, because its disk has failed, and the cluster is not whole", node.name());
      BeginStop(node);
    }
    if (node.state == State::kUp && node.member->serving()) {
      const size_t wanting = node.member->host()->WantingPages().size();
      if (wanting > node.wanting) {
        Say("{} wants copies of the pages of {} partitions", node.name(), wanting);
        counts_.installs += wanting - node.wanting;
      }
      node.wanting = wanting;
    }
    if (node.state == State::kStopping && node.is_stopped) {
      const bool clean = node.stopped.ok();
      node.owned.reset();
      node.member = nullptr;
      node.machine->ProcessCrash(random_.Next());
      node.state = State::kDown;
      if (!clean) Say("{} did not stop in order", node.name());
    }
    if (node.state == State::kDown && !node.held_down) {
      node.held_down = true;
      Nanos after_ns = faults_on_ ? Between(20 * kMillisecond, 1500 * kMillisecond) : Between(20, 200) * kMillisecond;
      if (node.start_after_ns != 0) after_ns = std::exchange(node.start_after_ns, 0);
      At(after_ns, [this, &node] {
        if (!node.held_down) return;
        node.held_down = false;
        node.wanting = 0;
        if (std::exchange(node.loses_disk, false)) {
          node.machine->disk() = SimDisk();
          node.disk_went_back = true;
          ++counts_.lost_disks;
        }
        if (node.image) {
          node.machine->disk() = *std::exchange(node.image, std::nullopt);
          node.disk_went_back = true;
          ++counts_.images_restored;
        }
        Boot(node);
      });
    }
  }
  At(5 * kMillisecond, [this] { Watch(); });
}

// -- the topology

Versioned<PartitionRecord> ClusterWorld::Record(uint32_t partition) const {
  const TopologyEntry& entry = server_.entries().at(PartitionKey(partition));
  Result<PartitionRecord> record = DecodePartition(entry);
  CHECK(record.ok()) << record.status().ToString();
  return {*std::move(record), entry.revision};
}

// -- the end

std::string ClusterWorld::WhyNotInSync() const {
  for (uint32_t p = 0; p < partitions_; ++p) {
    const PartitionRecord record = Record(p).record;
    if (record.isr.size() != 3 || !record.evicted.empty() || !record.learners.empty()) {
      return fmt::format("partition {}: {} in sync, {} evicted, {} learners", p, record.isr.size(),
                         record.evicted.size(), record.learners.size());
    }
  }
  return "";
}

std::string ClusterWorld::WhyNotWhole() const {
  if (const std::string why = WhyNotInSync(); !why.empty()) return why;
  for (const auto& node : nodes_) {
    if (node->state != State::kUp || !node->member->serving()) return node->name() + " does not serve";
  }
  for (uint32_t p = 0; p < partitions_; ++p) {
    const PartitionRecord record = Record(p).record;
    std::optional<replication::ReplicaReport> master;
    std::vector<replication::ReplicaReport> reports;
    for (const ReplicaRecord& replica : record.isr) {
      ClusterMember* member = nodes_[replica.node - 1]->member;
      const replication::HostedReplica* hosted = member->host()->Find(p);
      if (hosted == nullptr || hosted->core() == nullptr) {
        return fmt::format("partition {}: node {} has no replica in service", p, replica.node);
      }
      if (hosted->replica() != replica.replica) return fmt::format("partition {}: another replica is there", p);
      reports.push_back(hosted->Report());
      if (replica.replica == record.master) master = reports.back();
    }
    if (!master || !master->leased || master->epoch != record.epoch) {
      return fmt::format("partition {}: its master has no lease", p);
    }
    for (const auto& r : reports) {
      if (r.last_lsn != master->last_lsn || r.durable_lsn != r.last_lsn || r.commit_lsn != r.last_lsn ||
          r.applied_lsn != r.last_lsn) {
        return fmt::format(
            "partition {}: a replica ({}) is at LSN {}, durable {}, committed {}, applied {}, its master at {}", p,
            r.role, r.last_lsn, r.durable_lsn, r.commit_lsn, r.applied_lsn, master->last_lsn);
      }
    }
  }
  return "";
}

// I12.
void ClusterWorld::CompareReplicas() {
  // Sweeping goes on; so one more look.
  if (!RunUntil([this] { return WhyNotWhole().empty(); }, 10 * kSecond)) {
    return Wrong("the cluster is not whole any more: " + WhyNotWhole());
  }
  for (uint32_t p = 0; p < partitions_; ++p) {
    std::optional<RangeAggregates> first;
    std::optional<HistoryPoint> end;
    for (const ReplicaRecord& replica : Record(p).record.isr) {
      ClusterMember& member = *nodes_[replica.node - 1]->member;
      Partition* partition = member.engine()->partition(p);
      CHECK(partition != nullptr);
      const HistoryPoint here = dynamic_cast<GatedPartition*>(partition)->end();
      auto sums = kernel_.RunTask(member.reactor(), partition->Aggregate("", "", kNewest));
      if (!(*sums).ok()) {
        return Wrong(fmt::format("partition {} of node {}: {}", p, replica.node, (*sums).status().ToString()));
      }
      if (!first) first = **sums;
      if (!end) end = here;
      if (!(**sums == *first) || here.lsn != end->lsn || here.chain != end->chain || here.epoch != end->epoch) {
        Wrong(
            fmt::format("I12: partition {} of node {} has {} records, {} bytes, hash {:x}, LSN {}, chain {:x}; another "
                        "replica {}, {}, {:x}, {}, {:x}",
                        p, replica.node, (*sums)->count, (*sums)->bytes, (*sums)->content_hash, here.lsn, here.chain,
                        first->count, first->bytes, first->content_hash, end->lsn, end->chain));
      }
    }
  }
}

// What was acknowledged and is not there any more is noticed, also if no client has asked for it since.
void ClusterWorld::ReadAllKeys() {
  StoreInfo store;
  store.ranges = partitions_;
  for (const std::string& key : history_.Keys()) {
    if (!wrong_.empty()) return;
    const uint32_t partition = store.PartitionOf(key);
    Node* master = MasterOf(partition);
    if (master == nullptr) return Wrong(fmt::format("I13: partition {} has no master any more", partition));
    Operation read;
    read.client = kClients + kLoyalClients;
    read.key = key;
    const size_t id = history_.Begin(read, kernel_.now_ns());
    auto answer =
        kernel_.RunTask(master->member->reactor(), master->member->place(partition)->Get(key, kNewest, nullptr));
    if (!answer->ok()) return Wrong(fmt::format("I13: {} cannot be read: {}", key, answer->status().ToString()));
    if ((*answer)->found) history_.operation(id).seen = (*answer)->value;
    history_.Finish(id, kernel_.now_ns());
  }
}

void ClusterWorld::JudgeHistory() {
  const Linearizability judged = CheckLinearizable(history_, {.max_configurations = 50'000, .zero_ns = began_ns_});
  if (judged.verdict == Linearizability::Verdict::kNo) Wrong("history: not linearizable: " + judged.why);
  if (judged.verdict == Linearizability::Verdict::kTooWide) {
    ++counts_.too_wide;
    counts_.judged = 0;
  }
}

void ClusterWorld::CloseAll() {
  for (auto& node : nodes_) node->held_down = true;  // Watch starts nothing any more
  for (auto& node : nodes_) At(Between(0, kSecond), [this, n = node.get()] { BeginStop(*n); });
  const bool closed = RunUntil(
      [this] {
        return std::all_of(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->state == State::kDown; });
      },
      kClosesWithin);
  if (!closed) {
    if (wrong_.empty()) Wrong(fmt::format("not all nodes have stopped after {} s", kClosesWithin / kSecond));
    return;
  }
  for (auto& node : nodes_) {
    if (!node->stopped.ok()) Wrong(fmt::format("{} did not close well: {}", node->name(), node->stopped.ToString()));
  }
}

}  // namespace pando
