#include "src/topology/load_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>

namespace pando {

namespace {

// In units of a read of one record.
constexpr double kReadCost = 1, kScanCost = 20, kLeaderWriteCost = 4, kFollowerWriteCost = 2;
constexpr double kCalm = 0.8;  // one node fewer is wanted only if the others are then at most so busy of the target

// Nodes are named by their positions here.
class Planner {
 public:
  explicit Planner(const LoadInput& input) : in_(input) {
    for (size_t n = 0; n < in_.nodes.size(); ++n) at_[in_.nodes[n].place.id] = n;
    load_.resize(in_.nodes.size());
    double total = 0, weights = 0;
    for (const PartitionLoad& p : in_.partitions) {
      State& state = partitions_.emplace_back(State{&p, p.master, p.holders});
      state.may_move = p.settled && at_.contains(p.master) && !in_.resting.contains(p.id);
      for (const NodeId holder : p.holders) {
        state.may_move = state.may_move && at_.contains(holder);
        const double cost = holder == p.master ? LeaderLoad(p.traffic) : FollowerLoad(p.traffic);
        if (at_.contains(holder)) load_[at_.at(holder)] += cost;
        total += cost;
      }
    }
    // What draining nodes carry is to be carried by the others.
    for (const LoadedNode& node : in_.nodes) weights += node.takes ? node.place.weight : 0;
    mean_ = weights > 0 ? total / weights : 0;
  }

  LoadPlan Plan() {
    bool idle = false;  // somebody has room for much
    for (size_t n = 0; n < load_.size(); ++n) idle = idle || (in_.nodes[n].takes && Load(n) < kIdle * mean_);
    for (size_t n = 0; n < load_.size(); ++n) {
      const NodeId id = in_.nodes[n].place.id;
      plan_.loads[id] = mean_ > 0 ? Load(n) / mean_ : 0;
      const double bound = idle || in_.hot.contains(id) ? kCool : kHot;
      if (in_.nodes[n].takes && mean_ >= kLeastMeanLoad && Load(n) > bound * mean_) plan_.hot.insert(id);
    }
    while (plan_.moves.size() < in_.most_moves) {
      std::optional<Choice> choice = BestOfHottest();
      if (!choice) break;
      Carry(*choice);
    }
    return std::move(plan_);
  }

 private:
  struct State {
    const PartitionLoad* p = nullptr;
    NodeId master = 0;
    std::vector<NodeId> holders;
    bool may_move = true;
  };
  struct Choice {
    LoadMove::Kind kind = LoadMove::Kind::kMaster;
    size_t partition = 0, from = 0, to = 0;
    double cost = 0;     // that moves
    double greater = 0;  // of the two loads afterwards
    uint64_t bytes = 0;  // that are copied
    bool operator<(const Choice& o) const {
      return std::tuple(greater, bytes, partition, to) < std::tuple(o.greater, o.bytes, o.partition, o.to);
    }
  };

  double Load(size_t n) const { return load_[n] / in_.nodes[n].place.weight; }
  NodeId IdOf(size_t n) const { return in_.nodes[n].place.id; }
  // A node without a zone is in one of its own.
  bool SameZone(size_t a, size_t b) const {
    return a == b || (!in_.nodes[a].place.zone.empty() && in_.nodes[a].place.zone == in_.nodes[b].place.zone);
  }
  size_t CountInZoneOf(const State& s, size_t n) const {
    return static_cast<size_t>(
        std::count_if(s.holders.begin(), s.holders.end(), [&](NodeId id) { return SameZone(at_.at(id), n); }));
  }

  // Of the hottest node that any move helps.
  std::optional<Choice> BestOfHottest() const {
    std::vector<size_t> hot;
    for (size_t n = 0; n < load_.size(); ++n) {
      if (plan_.hot.contains(IdOf(n)) && Load(n) > kCool * mean_) hot.push_back(n);
    }
    std::sort(hot.begin(), hot.end(),
              [&](size_t a, size_t b) { return std::pair(-Load(a), a) < std::pair(-Load(b), b); });
    for (const size_t n : hot) {
      std::optional<Choice> best = BestMaster(n);
      if (!best && copies_ < in_.most_copies) best = BestReplica(n);
      if (best) return best;
    }
    return std::nullopt;
  }

  // LP1.
  void Consider(Choice choice, std::optional<Choice>* best) const {
    const double before = std::max(Load(choice.from), Load(choice.to));
    const double from = (load_[choice.from] - choice.cost) / in_.nodes[choice.from].place.weight;
    const double to = (load_[choice.to] + choice.cost) / in_.nodes[choice.to].place.weight;
    choice.greater = std::max(from, to);
    if (choice.greater > before - kMinGain * mean_ || to > kHot * mean_) return;
    if (!*best || choice < **best) *best = choice;
  }

  std::optional<Choice> BestMaster(size_t from) const {
    std::optional<Choice> best;
    for (size_t i = 0; i < partitions_.size(); ++i) {
      const State& s = partitions_[i];
      if (!s.may_move || s.master != IdOf(from)) continue;
      const double cost = LeaderLoad(s.p->traffic) - FollowerLoad(s.p->traffic);
      for (const NodeId id : s.holders) {
        const size_t to = at_.at(id);
        if (to != from && in_.nodes[to].takes) Consider({LoadMove::Kind::kMaster, i, from, to, cost}, &best);
      }
    }
    return best;
  }

  // LP2.
  std::optional<Choice> BestReplica(size_t from) const {
    std::optional<Choice> best;
    for (size_t i = 0; i < partitions_.size(); ++i) {
      const State& s = partitions_[i];
      if (!s.may_move || std::find(s.holders.begin(), s.holders.end(), IdOf(from)) == s.holders.end()) continue;
      const double cost = s.master == IdOf(from) ? LeaderLoad(s.p->traffic) : FollowerLoad(s.p->traffic);
      for (size_t to = 0; to < load_.size(); ++to) {
        const bool holds = std::find(s.holders.begin(), s.holders.end(), IdOf(to)) != s.holders.end();
        if (holds || !in_.nodes[to].takes || in_.nodes[to].disk_full) continue;
        if (!SameZone(from, to) && CountInZoneOf(s, to) + 1 > CountInZoneOf(s, from)) continue;
        Consider({LoadMove::Kind::kReplica, i, from, to, cost, 0, s.p->bytes}, &best);
      }
    }
    return best;
  }

  void Carry(const Choice& c) {
    State& s = partitions_[c.partition];
    const NodeId from = IdOf(c.from), to = IdOf(c.to);
    LoadMove& move = plan_.moves.emplace_back();
    move.kind = c.kind;
    move.partition = s.p->id;
    move.from = from;
    move.to = to;
    move.leads = s.master == from;
    move.why = fmt::format("node {} has {:.2f} and node {} {:.2f} times the mean load; {} goes to node {}", from,
                           Load(c.from) / mean_, to, Load(c.to) / mean_,
                           c.kind == LoadMove::Kind::kMaster ? "the mastership" : "a replica", to);
    load_[c.from] -= c.cost;
    load_[c.to] += c.cost;
    if (s.master == from) s.master = to;
    if (c.kind == LoadMove::Kind::kReplica) {
      *std::find(s.holders.begin(), s.holders.end(), from) = to;
      ++copies_;
    }
    s.may_move = false;  // LP3
  }

  const LoadInput& in_;
  std::map<NodeId, size_t> at_;
  std::vector<double> load_;  // not divided by the weight
  double mean_ = 0;           // per weight
  std::vector<State> partitions_;
  size_t copies_ = 0;  // that are planned
  LoadPlan plan_;
};

}  // namespace

double LeaderLoad(const Traffic& traffic) {
  return kReadCost * traffic.reads + kScanCost * traffic.scans + kLeaderWriteCost * traffic.writes;
}
double FollowerLoad(const Traffic& traffic) { return kFollowerWriteCost * traffic.writes; }

LoadPlan PlanLoad(const LoadInput& input) { return Planner(input).Plan(); }

uint32_t WantedNodes(const WantedInput& input) {
  double busy = 0, weights = 0;
  for (const LoadedNode& node : input.nodes) {
    busy += std::clamp(node.busy, 0.0, 1.0) * node.place.weight;
    weights += node.place.weight;
  }
  if (weights == 0) return input.replicas;
  const double mean_weight = weights / static_cast<double>(input.nodes.size());
  const auto nodes = static_cast<uint32_t>(input.nodes.size());
  const auto needed = static_cast<uint32_t>(std::ceil(busy / (input.target_busy * mean_weight) - 1e-9));
  uint32_t wanted = std::max(needed, input.replicas);
  // As many as there are, unless one fewer is comfortable: what would be wanted again at once is not given up.
  if (wanted < nodes && busy > kCalm * input.target_busy * mean_weight * (nodes - 1)) wanted = nodes;
  return wanted;
}

LoadPlan LoadHistory::Plan(LoadInput input, int64_t now_ms) {
  std::erase_if(moved_ms_, [now_ms](const auto& moved) { return now_ms - moved.second >= kRestMs; });
  while (!last_moves_ms_.empty() && now_ms - last_moves_ms_.front() >= 60'000) last_moves_ms_.pop_front();
  for (const auto& [partition, moved_ms] : moved_ms_) input.resting.insert(partition);
  input.hot = relieved_;
  input.most_moves = std::min(kMostAtOnce, moves_per_minute_ - std::min(moves_per_minute_, last_moves_ms_.size()));
  LoadPlan plan = PlanLoad(input);
  std::erase_if(hot_since_ms_, [&plan](const auto& hot) { return !plan.hot.contains(hot.first); });
  for (const NodeId node : plan.hot) hot_since_ms_.try_emplace(node, now_ms);
  const auto young = [&](NodeId node) { return now_ms - hot_since_ms_.at(node) < kHotMs; };
  // What follows such a move was planned with it.
  const auto first =
      std::find_if(plan.moves.begin(), plan.moves.end(), [&](const auto& move) { return young(move.from); });
  plan.moves.erase(first, plan.moves.end());
  relieved_.clear();
  for (const NodeId node : plan.hot) {
    if (!young(node)) relieved_.insert(node);
  }
  for (const LoadMove& move : plan.moves) {
    moved_ms_[move.partition] = now_ms;
    last_moves_ms_.push_back(now_ms);
  }
  return plan;
}

uint32_t LoadHistory::Publish(uint32_t nodes, uint32_t wanted, int64_t now_ms) {
  if (published_ == 0) published_ = nodes;
  const auto since = [now_ms](bool holds, int64_t* since_ms) {
    if (!holds) *since_ms = -1;
    if (holds && *since_ms < 0) *since_ms = now_ms;
    return holds ? now_ms - *since_ms : -1;
  };
  if (since(wanted > published_, &more_since_ms_) >= kMoreMs) {
    published_ = wanted;
    more_since_ms_ = -1;
  }
  if (since(wanted < published_, &less_since_ms_) >= kLessMs) {
    --published_;
    less_since_ms_ = -1;
  }
  return published_;
}

void LoadHistory::Clear() { *this = LoadHistory(moves_per_minute_); }

}  // namespace pando
