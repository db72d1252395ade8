#include "src/topology/placement.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "src/base/codec.h"
#include "src/base/hash.h"

namespace pando {
namespace {

constexpr size_t kNobody = SIZE_MAX;
// A node may hold this part of its share in addition. If limits were exact, each new node would move
// replicas between the others.
constexpr size_t kSlack = 8;

// Nodes and partitions are named by their positions here.
class Placer {
 public:
  Placer(std::vector<PlacementNode> nodes, uint32_t partitions)
      : nodes_(std::move(nodes)),
        partitions_(partitions),
        chosen_(partitions),
        scores_(partitions, std::vector<uint64_t>(nodes_.size())),
        preferences_(partitions, std::vector<size_t>(nodes_.size())),
        load_(nodes_.size()) {
    std::map<std::string, size_t> zones;
    for (const PlacementNode& node : nodes_) {
      const std::string name = node.zone.empty() ? fmt::format("\n{}", node.id) : node.zone;
      zones_.push_back(zones.emplace(name, zones.size()).first->second);
    }
    for (uint32_t p = 0; p < partitions_; ++p) {
      for (size_t n = 0; n < nodes_.size(); ++n) scores_[p][n] = PlacementScore(p, nodes_[n]);
      std::iota(preferences_[p].begin(), preferences_[p].end(), 0);
      std::sort(preferences_[p].begin(), preferences_[p].end(),
                [&](size_t a, size_t b) { return IsBetter(p, a, p, b); });
    }
  }

  // Gives each partition one more replica.
  void AddReplica() {
    std::vector<size_t> limits = Shares(partitions_ * (chosen_[0].size() + 1));
    if (!chosen_[0].empty()) {
      for (size_t& limit : limits) limit += limit / kSlack + 1;
    }
    const std::vector<size_t> matched = Match(limits);
    for (uint32_t p = 0; p < partitions_; ++p) {
      chosen_[p].push_back(matched[p]);
      ++load_[matched[p]];
    }
  }

  Placement Result() const {
    Placement placement(partitions_);
    for (uint32_t p = 0; p < partitions_; ++p) {
      for (const size_t n : chosen_[p]) placement[p].push_back(nodes_[n].id);
    }
    return placement;
  }

 private:
  // Whether the first pair of a partition and a node has the better score. No two pairs are equal.
  bool IsBetter(uint32_t p, size_t n, uint32_t other_p, size_t other_n) const {
    return std::tuple(scores_[p][n], p, nodes_[n].id) >
           std::tuple(scores_[other_p][other_n], other_p, nodes_[other_n].id);
  }

  // Divides `replicas` by weight. Whoever has the greatest remainders gets one more.
  std::vector<size_t> Shares(size_t replicas) const {
    size_t weights = 0, left = replicas;
    for (const PlacementNode& node : nodes_) weights += node.weight;
    std::vector<size_t> shares, order(nodes_.size());
    for (const PlacementNode& node : nodes_) {
      shares.push_back(replicas * node.weight / weights);
      left -= shares.back();
    }
    std::iota(order.begin(), order.end(), 0);
    auto remainder = [&](size_t n) {
      return std::tuple(replicas * nodes_[n].weight % weights, PlacementScore(UINT32_MAX, nodes_[n]), nodes_[n].id);
    };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainder(a) > remainder(b); });
    for (size_t i = 0; i < left; ++i) ++shares[order[i]];
    return shares;
  }

  // The nodes that may get the next replica of a partition, best first (PP1): those that have none of it,
  // in the zones that have the fewest.
  std::vector<size_t> CandidatesOf(uint32_t p) const {
    std::map<size_t, size_t> in_zone;
    for (const size_t n : chosen_[p]) ++in_zone[zones_[n]];
    std::vector<size_t> candidates;
    size_t fewest = SIZE_MAX;
    for (const size_t n : preferences_[p]) {
      if (std::find(chosen_[p].begin(), chosen_[p].end(), n) != chosen_[p].end()) continue;
      const auto found = in_zone.find(zones_[n]);
      const size_t count = found == in_zone.end() ? 0 : found->second;
      if (count > fewest) continue;
      if (count < fewest) candidates.clear();
      fewest = count;
      candidates.push_back(n);
    }
    return candidates;
  }

  // A stable matching (Gale and Shapley): partitions ask their candidates in order, and a node keeps the
  // best that have asked, up to its limit. Whom nobody keeps takes its best candidate all the same.
  std::vector<size_t> Match(const std::vector<size_t>& limits) const {
    std::vector<std::vector<size_t>> candidates(partitions_);
    for (uint32_t p = 0; p < partitions_; ++p) candidates[p] = CandidatesOf(p);
    std::vector<std::set<std::pair<uint64_t, uint32_t>>> kept(nodes_.size());  // worst first
    std::vector<size_t> next(partitions_), matched(partitions_, kNobody);
    for (uint32_t first = 0; first < partitions_; ++first) {
      for (uint32_t p = first; next[p] < candidates[p].size();) {
        const size_t n = candidates[p][next[p]++];
        if (limits[n] <= load_[n]) continue;
        kept[n].emplace(scores_[p][n], p);
        matched[p] = n;
        if (kept[n].size() <= limits[n] - load_[n]) break;
        p = kept[n].begin()->second;
        kept[n].erase(kept[n].begin());
        matched[p] = kNobody;
      }
    }
    for (uint32_t p = 0; p < partitions_; ++p) {
      if (matched[p] == kNobody) matched[p] = candidates[p].front();
    }
    return matched;
  }

  const std::vector<PlacementNode> nodes_;
  const uint32_t partitions_;
  std::vector<std::vector<size_t>> chosen_;  // of each partition
  std::vector<std::vector<uint64_t>> scores_;
  std::vector<std::vector<size_t>> preferences_;
  std::vector<size_t> load_;  // replicas of each node
  std::vector<size_t> zones_;
};

}  // namespace

// The best of `weight` hashes, so that a node with twice the weight wins twice as often.
uint64_t PlacementScore(uint32_t partition, const PlacementNode& node) {
  uint64_t best = 0;
  for (uint32_t i = 0; i < node.weight; ++i) {
    char bytes[12];
    StoreLE(bytes, partition);
    StoreLE(bytes + 4, node.id);
    StoreLE(bytes + 8, i);
    best = std::max(best, Hash64({bytes, sizeof bytes}));
  }
  return best;
}

Result<Placement> PlacePartitions(std::vector<PlacementNode> nodes, uint32_t partitions, uint32_t replicas) {
  CHECK(partitions > 0 && replicas > 0);
  std::sort(nodes.begin(), nodes.end(), [](const PlacementNode& a, const PlacementNode& b) { return a.id < b.id; });
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (i > 0 && nodes[i].id == nodes[i - 1].id) {
      return Error(Code::kInvalidArgument, "node {} is named twice", nodes[i].id);
    }
    if (nodes[i].weight == 0 || nodes[i].weight > kMaxNodeWeight) {
      return Error(Code::kInvalidArgument, "the weight of node {} is {}: it must be 1 to {}", nodes[i].id,
                   nodes[i].weight, kMaxNodeWeight);
    }
  }
  if (nodes.size() < replicas) {
    return Error(Code::kInvalidArgument, "{} replicas of each partition need as many nodes, and there are {}", replicas,
                 nodes.size());
  }
  Placer placer(std::move(nodes), partitions);
  for (uint32_t i = 0; i < replicas; ++i) placer.AddReplica();
  return placer.Result();
}

std::optional<NodeId> ChooseNode(const std::vector<PlacementNode>& nodes, const std::vector<size_t>& loads,
                                 const std::vector<PlacementNode>& stay, uint32_t partition) {
  auto in_zone = [&](const PlacementNode& node) {
    return node.zone.empty()
               ? 0
               : std::count_if(stay.begin(), stay.end(), [&](const auto& other) { return other.zone == node.zone; });
  };
  std::optional<size_t> best;
  // Per unit of weight, rounded up, so that a node with twice the weight takes twice as much.
  auto load_of = [&](size_t n) { return (loads[n] + nodes[n].weight) / nodes[n].weight; };
  size_t least = SIZE_MAX;
  auto fewest = std::numeric_limits<decltype(in_zone(nodes.front()))>::max();
  for (size_t n = 0; n < nodes.size(); ++n) fewest = std::min(fewest, in_zone(nodes[n]));
  for (size_t n = 0; n < nodes.size(); ++n) {
    if (in_zone(nodes[n]) == fewest) least = std::min(least, load_of(n));
  }
  for (size_t n = 0; n < nodes.size(); ++n) {
    if (in_zone(nodes[n]) != fewest || load_of(n) > least + least / kSlack + 1) continue;
    if (!best || std::pair(PlacementScore(partition, nodes[n]), nodes[n].id) >
                     std::pair(PlacementScore(partition, nodes[*best]), nodes[*best].id)) {
      best = n;
    }
  }
  return best ? std::optional(nodes[*best].id) : std::nullopt;
}

}  // namespace pando
