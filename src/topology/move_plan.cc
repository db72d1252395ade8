#include "src/topology/move_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

namespace pando {
namespace {

// A node that deviates from its share by less than this part of it stays as it is.
constexpr double kTolerance = 0.02;
// By so much of its bytes a move must bring the one of its two nodes that deviates more nearer to its share.
constexpr double kGain = 0.5, kFreeGain = 0.25;
constexpr int kSteps = 60;  // of a bisection

struct Bounds {
  double least = 0, most = 0;
};

// Finds the level at which `filled(level)` is `total`; it does not fall with the level.
template <typename Filled>
double LevelOf(double total, double highest, Filled filled) {
  double low = 0, high = highest;
  for (int i = 0; i < kSteps; ++i) {
    const double middle = (low + high) / 2;
    (filled(middle) < total ? low : high) = middle;
  }
  return high;
}

// Nodes and partitions are named by their positions here.
class Planner {
 public:
  explicit Planner(const MoveInput& input) : in_(input), nodes_(input.nodes) {
    std::sort(nodes_.begin(), nodes_.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  }

  Result<MovePlan> Run() {
    RETURN_IF_ERROR(Read());
    SetShares();
    before_ = holders_;
    Report(&NodeLoad::before, &NodeLoad::replicas_before);
    EmptyNodes();
    if (in_.goal == MoveGoal::kEmpty) Balance(/*only_free=*/true);
    if (in_.goal == MoveGoal::kBalance) {
      SpreadOverZones();
      Balance(/*only_free=*/true);
      Balance(/*only_free=*/false);
    }
    Report(&NodeLoad::after, &NodeLoad::replicas_after);
    for (size_t n = 0; n < nodes_.size(); ++n) {
      plan_.loads[nodes_[n].id].share = static_cast<uint64_t>(std::llround(share_[n]));
    }
    for (size_t p = 0; p < holders_.size(); ++p) AddMoves(p);
    return std::move(plan_);
  }

 private:
  Status Read() {
    std::map<std::string, size_t> zones;
    std::map<NodeId, size_t> at;
    size_t usable = 0;
    for (size_t n = 0; n < nodes_.size(); ++n) {
      if (!at.emplace(nodes_[n].id, n).second) {
        return Error(Code::kInvalidArgument, "node {} is there twice", nodes_[n].id);
      }
      const std::string name = nodes_[n].zone.empty() ? fmt::format("\n{}", nodes_[n].id) : nodes_[n].zone;
      zone_of_.push_back(zones.emplace(name, zones.size()).first->second);
      usable += nodes_[n].weight > 0;
    }
    zone_nodes_.resize(zones.size());
    for (size_t n = 0; n < nodes_.size(); ++n) {
      if (nodes_[n].weight > 0) zone_nodes_[zone_of_[n]].push_back(n);
    }
    load_.resize(nodes_.size());
    for (const PlacedPartition& p : in_.partitions) {
      if (p.nodes.size() > usable) {
        return Error(Code::kInvalidArgument,
                     "partition {} has {} replicas, and only {} nodes are left to hold them; add a node first", p.id,
                     p.nodes.size(), usable);
      }
      std::vector<size_t>& holders = holders_.emplace_back();
      for (const NodeId id : p.nodes) {
        const auto found = at.find(id);
        if (found == at.end()) {
          return Error(Code::kInvalidArgument, "partition {} has a replica on node {}, which is not there", p.id, id);
        }
        holders.push_back(found->second);
        load_[found->second] += static_cast<double>(p.bytes);
      }
    }
    return Status();
  }

  // -- shares

  // How many replicas of a partition that has so many each zone holds (PP1): all fill up evenly, until they are full.
  std::vector<std::pair<size_t, size_t>> ZoneLimits(size_t replicas) const {
    size_t level = 0;
    const auto held_at = [&](size_t l) {
      size_t held = 0;
      for (const auto& zone : zone_nodes_) held += std::min(zone.size(), l);
      return held;
    };
    while (level < replicas && held_at(level + 1) <= replicas) ++level;
    const bool more = held_at(level) < replicas;
    std::vector<std::pair<size_t, size_t>> limits;
    for (const auto& zone : zone_nodes_) {
      limits.emplace_back(std::min(zone.size(), level), std::min(zone.size(), level + more));
    }
    return limits;
  }

  // Fills zones by the weight of their nodes, within what each may hold, and the nodes of each zone by their weights,
  // none with more than one replica of everything.
  void SetShares() {
    std::vector<Bounds> bounds(zone_nodes_.size());
    double all = 0, total = 0;
    for (size_t p = 0; p < holders_.size(); ++p) {
      const auto bytes = static_cast<double>(in_.partitions[p].bytes);
      const auto [at, fresh] = limits_.try_emplace(holders_[p].size());
      if (fresh) at->second = ZoneLimits(holders_[p].size());
      for (size_t z = 0; z < bounds.size(); ++z) {
        bounds[z].least += bytes * static_cast<double>(at->second[z].first);
        bounds[z].most += bytes * static_cast<double>(at->second[z].second);
      }
      all += bytes;
      total += bytes * static_cast<double>(holders_[p].size());
    }
    const auto node_at = [&](size_t n, double level) { return std::min(all, level * nodes_[n].weight); };
    const auto nodes_at = [&](size_t z, double level) {
      double sum = 0;
      for (const size_t n : zone_nodes_[z]) sum += node_at(n, level);
      return sum;
    };
    const auto zone_at = [&](size_t z, double level) {
      return std::clamp(nodes_at(z, level), bounds[z].least, bounds[z].most);
    };
    const double level = LevelOf(total, all, [&](double l) {
      double sum = 0;
      for (size_t z = 0; z < bounds.size(); ++z) sum += zone_at(z, l);
      return sum;
    });
    share_.assign(nodes_.size(), 0);
    for (size_t z = 0; z < bounds.size(); ++z) {
      const double of_zone = zone_at(z, level);
      const double inner = LevelOf(of_zone, all, [&](double l) { return nodes_at(z, l); });
      for (const size_t n : zone_nodes_[z]) share_[n] = node_at(n, inner);
    }
  }

  // -- single moves

  double BytesOf(size_t p) const { return static_cast<double>(in_.partitions[p].bytes); }
  double Excess(size_t n) const { return load_[n] - share_[n]; }
  bool Holds(size_t p, size_t n) const {
    return std::find(holders_[p].begin(), holders_[p].end(), n) != holders_[p].end();
  }
  bool HeldBefore(size_t p, size_t n) const {
    return std::find(before_[p].begin(), before_[p].end(), n) != before_[p].end();
  }
  size_t CountIn(size_t p, size_t zone) const {
    return static_cast<size_t>(
        std::count_if(holders_[p].begin(), holders_[p].end(), [&](size_t n) { return zone_of_[n] == zone; }));
  }
  const std::vector<std::pair<size_t, size_t>>& LimitsOf(size_t p) const { return limits_.at(holders_[p].size()); }

  void Move(size_t p, size_t from, size_t to) {
    *std::find(holders_[p].begin(), holders_[p].end(), from) = to;
    load_[from] -= BytesOf(p);
    load_[to] += BytesOf(p);
  }

  // Whether the zones allow it (MP1), if they are as they should be.
  bool MayMove(size_t p, size_t from, size_t to) const {
    if (nodes_[to].weight == 0 || Holds(p, to)) return false;
    const size_t a = zone_of_[from], b = zone_of_[to];
    return a == b || (CountIn(p, a) > LimitsOf(p)[a].first && CountIn(p, b) < LimitsOf(p)[b].second);
  }

  // The largest first, because the small ones fill the gaps.
  std::vector<size_t> BySize() const {
    std::vector<size_t> order(holders_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return BytesOf(a) > BytesOf(b); });
    return order;
  }

  // -- what must move

  void EmptyNodes() {
    for (const size_t p : BySize()) {
      const std::vector<size_t> holders = holders_[p];
      for (const size_t n : holders) {
        if (nodes_[n].weight == 0) Move(p, n, *TakerOf(p, n));
      }
    }
  }

  // In the zone that lacks the most of it; of those, the node that lacks the most, and then the best one.
  std::optional<size_t> TakerOf(size_t p, size_t from) const {
    std::optional<size_t> best;
    const auto rank = [&](size_t n) {
      const size_t count = CountIn(p, zone_of_[n]) - (zone_of_[n] == zone_of_[from]);
      const auto [least, most] = LimitsOf(p)[zone_of_[n]];
      return std::tuple(count < least, count < most, -Excess(n), PlacementScore(in_.partitions[p].id, nodes_[n]));
    };
    for (size_t n = 0; n < nodes_.size(); ++n) {
      if (nodes_[n].weight == 0 || Holds(p, n)) continue;
      if (!best || rank(n) > rank(*best)) best = n;
    }
    return best;
  }

  void SpreadOverZones() {
    for (const size_t p : BySize()) {
      while (SpreadOnce(p)) {
      }
    }
  }

  // Moves one replica from a zone with too many to one with too few, if there is one.
  bool SpreadOnce(size_t p) {
    bool crowded = false, lacking = false;
    for (size_t z = 0; z < zone_nodes_.size(); ++z) {
      crowded = crowded || CountIn(p, z) > LimitsOf(p)[z].second;
      lacking = lacking || CountIn(p, z) < LimitsOf(p)[z].first;
    }
    if (!crowded && !lacking) return false;
    std::optional<std::tuple<double, uint64_t, size_t, size_t>> best;
    for (const size_t from : holders_[p]) {
      const size_t a = zone_of_[from];
      if (CountIn(p, a) <= (crowded ? LimitsOf(p)[a].second : LimitsOf(p)[a].first)) continue;
      for (size_t to = 0; to < nodes_.size(); ++to) {
        const size_t b = zone_of_[to];
        if (nodes_[to].weight == 0 || Holds(p, to) || a == b) continue;
        if (CountIn(p, b) >= (lacking ? LimitsOf(p)[b].first : LimitsOf(p)[b].second)) continue;
        const std::tuple candidate(Excess(from) - Excess(to), PlacementScore(in_.partitions[p].id, nodes_[to]), from,
                                   to);
        if (!best || candidate > *best) best = candidate;
      }
    }
    CHECK(best) << "no replica of partition " << in_.partitions[p].id << " can move to another zone";
    Move(p, std::get<2>(*best), std::get<3>(*best));
    return true;
  }

  // -- what moves for balance

  struct Candidate {
    bool is_free = false;  // the replica moves anyway, and only goes elsewhere
    // The part of the bytes that bring a node nearer to its share, and then how many.
    double worth = 0, bytes = 0;
    uint64_t score = 0;
    size_t partition = 0, from = 0, to = 0;
    auto Rank() const { return std::tuple(is_free, worth, bytes, score, partition, from, to); }
  };

  // Each move brings the sum of the squares of what nodes deviate down, so this ends. Whether a move that is not free
  // is worth its bytes depends on nothing but where everything is now (MP2).
  void Balance(bool only_free) {
    for (bool moved = true; moved;) {
      moved = false;
      std::vector<size_t> order;
      for (size_t n = 0; n < nodes_.size(); ++n) {
        if (nodes_[n].weight > 0 && IsOff(n)) order.push_back(n);
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return std::abs(Excess(a)) > std::abs(Excess(b)); });
      for (const size_t n : order) {
        const std::optional<Candidate> best = BestFor(n, only_free);
        if (!best) continue;
        Move(best->partition, best->from, best->to);
        moved = true;
        break;
      }
    }
  }

  bool IsOff(size_t n) const { return std::abs(Excess(n)) > kTolerance * share_[n]; }

  // The best move that takes a replica from a node with too much, or gives one to a node with too little.
  std::optional<Candidate> BestFor(size_t n, bool only_free) const {
    std::optional<Candidate> best;
    for (size_t p = 0; p < holders_.size(); ++p) {
      if (Excess(n) > 0 && Holds(p, n)) {
        for (size_t to = 0; to < nodes_.size(); ++to) Consider(p, n, to, only_free, &best);
      } else if (Excess(n) < 0 && !Holds(p, n)) {
        for (const size_t from : holders_[p]) Consider(p, from, n, only_free, &best);
      }
    }
    return best;
  }

  void Consider(size_t p, size_t from, size_t to, bool only_free, std::optional<Candidate>* best) const {
    const double much = Excess(from), little = -Excess(to), bytes = BytesOf(p);
    if (much <= 0 || little <= 0 || bytes <= 0) return;
    const double after = std::max(std::abs(much - bytes), std::abs(little - bytes));
    const bool is_free = !HeldBefore(p, from);
    if (only_free && !is_free) return;
    if (after > std::max(much, little) - (is_free ? kFreeGain : kGain) * bytes) return;
    const double gain = much + little - std::abs(much - bytes) - std::abs(little - bytes);
    Candidate candidate{is_free, gain / (2 * bytes), bytes, UINT64_MAX, p, from, to};
    if (*best && candidate.Rank() < (*best)->Rank()) return;
    if (!MayMove(p, from, to)) return;
    candidate.score = PlacementScore(in_.partitions[p].id, nodes_[to]);
    if (!*best || candidate.Rank() > (*best)->Rank()) *best = candidate;
  }

  // -- the plan

  void Report(uint64_t NodeLoad::*bytes, size_t NodeLoad::*replicas) {
    for (size_t n = 0; n < nodes_.size(); ++n) plan_.loads[nodes_[n].id];
    for (size_t p = 0; p < holders_.size(); ++p) {
      for (const size_t n : holders_[p]) {
        plan_.loads[nodes_[n].id].*bytes += in_.partitions[p].bytes;
        ++(plan_.loads[nodes_[n].id].*replicas);
      }
    }
  }

  // Within a zone first, so that zones are crowded for as short as possible.
  void AddMoves(size_t p) {
    std::vector<size_t> leave, come;
    for (const size_t n : before_[p]) {
      if (!Holds(p, n)) leave.push_back(n);
    }
    for (const size_t n : holders_[p]) {
      if (!HeldBefore(p, n)) come.push_back(n);
    }
    for (const bool same_zone : {true, false}) {
      for (size_t& from : leave) {
        if (from == SIZE_MAX) continue;
        const auto to = std::find_if(come.begin(), come.end(),
                                     [&](size_t n) { return !same_zone || zone_of_[n] == zone_of_[from]; });
        if (to == come.end()) continue;
        plan_.moves.push_back({in_.partitions[p].id, nodes_[from].id, nodes_[*to].id, in_.partitions[p].bytes});
        come.erase(to);
        from = SIZE_MAX;
      }
    }
  }

  const MoveInput& in_;
  std::vector<PlacementNode> nodes_;
  std::vector<size_t> zone_of_;                                      // of each node
  std::vector<std::vector<size_t>> zone_nodes_;                      // those that may hold replicas
  std::vector<std::vector<size_t>> holders_;                         // of each partition, now
  std::vector<std::vector<size_t>> before_;                          // and at the beginning
  std::map<size_t, std::vector<std::pair<size_t, size_t>>> limits_;  // by number of replicas: least and most, by zone
  std::vector<double> load_, share_;
  MovePlan plan_;
};

double SpreadOf(const std::map<NodeId, NodeLoad>& loads, uint64_t NodeLoad::*bytes) {
  double spread = 0;
  for (const auto& [id, load] : loads) {
    if (load.share == 0) continue;
    const auto share = static_cast<double>(load.share);
    spread = std::max(spread, std::abs(static_cast<double>(load.*bytes) - share) / share);
  }
  return spread;
}

}  // namespace

uint64_t MovePlan::bytes() const {
  uint64_t sum = 0;
  for (const ReplicaMove& move : moves) sum += move.bytes;
  return sum;
}
double MovePlan::SpreadBefore() const { return SpreadOf(loads, &NodeLoad::before); }
double MovePlan::SpreadAfter() const { return SpreadOf(loads, &NodeLoad::after); }

Result<MovePlan> PlanMoves(const MoveInput& input) { return Planner(input).Run(); }

}  // namespace pando
