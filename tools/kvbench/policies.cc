#include "tools/kvbench/policies.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <list>
#include <set>
#include <unordered_map>
#include <utility>

#include "src/base/check.h"
#include "tools/kvbench/data.h"

namespace pando::bench {

namespace {

// The same constants as in BufferPool.
constexpr uint8_t kMaxHeat = 3;
constexpr size_t kSmallShare = 10;

// BufferPool's S3-FIFO for leaves: two queues, a heat for each page, and a direct-mapped table of
// ghosts.
class S3Fifo final : public EvictionPolicy {
 public:
  explicit S3Fifo(size_t frames) : frames_(frames), ghosts_(std::bit_ceil(frames)) {}

  bool Use(uint64_t page) override {
    auto found = heat_.find(page);
    if (found != heat_.end()) {
      found->second = std::min<uint8_t>(kMaxHeat, static_cast<uint8_t>(found->second + 1));
      return true;
    }
    while (heat_.size() >= frames_) EvictStep();
    uint64_t& ghost = Ghost(page);
    const bool again = ghost == page + 1;
    if (again) ghost = 0;
    (again ? main_ : small_).push_front(page);
    heat_[page] = 1;  // for the access that loaded it
    return false;
  }

 private:
  uint64_t& Ghost(uint64_t page) { return ghosts_[Mix64(page) & (ghosts_.size() - 1)]; }

  void EvictStep() {
    const bool from_small = !small_.empty() && (small_.size() > frames_ / kSmallShare || main_.empty());
    std::list<uint64_t>& queue = from_small ? small_ : main_;
    const uint64_t page = queue.back();
    queue.pop_back();
    uint8_t& heat = heat_[page];
    if (from_small ? heat > 1 : heat > 0) {
      heat = from_small ? 0 : static_cast<uint8_t>(heat - 1);
      main_.push_front(page);
      return;
    }
    if (from_small) Ghost(page) = page + 1;
    heat_.erase(page);
  }

  const size_t frames_;
  std::vector<uint64_t> ghosts_;  // page + 1; 0 = none
  std::list<uint64_t> small_, main_;
  std::unordered_map<uint64_t, uint8_t> heat_;
};

class Lru final : public EvictionPolicy {
 public:
  explicit Lru(size_t frames) : frames_(frames) {}
  bool Use(uint64_t page) override {
    auto found = at_.find(page);
    if (found != at_.end()) {
      queue_.splice(queue_.begin(), queue_, found->second);
      return true;
    }
    if (at_.size() >= frames_) {
      at_.erase(queue_.back());
      queue_.pop_back();
    }
    queue_.push_front(page);
    at_[page] = queue_.begin();
    return false;
  }

 private:
  const size_t frames_;
  std::list<uint64_t> queue_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> at_;
};

// When the hand finds a page that was used, CLOCK moves it to the front of the queue, and SIEVE
// leaves it in place. Both clear its mark.
class Clock final : public EvictionPolicy {
 public:
  Clock(size_t frames, bool sieve) : frames_(frames), sieve_(sieve), hand_(queue_.end()) {}
  bool Use(uint64_t page) override {
    auto found = at_.find(page);
    if (found != at_.end()) {
      found->second->used = true;
      return true;
    }
    if (at_.size() >= frames_) Evict();
    queue_.push_front({page, false});
    at_[page] = queue_.begin();
    return false;
  }

 private:
  struct Entry {
    uint64_t page = 0;
    bool used = false;
  };
  using Queue = std::list<Entry>;

  void Evict() {
    for (;;) {
      Queue::iterator victim = sieve_ && hand_ != queue_.end() ? hand_ : std::prev(queue_.end());
      Queue::iterator next = victim == queue_.begin() ? queue_.end() : std::prev(victim);
      if (!victim->used) {
        at_.erase(victim->page);
        queue_.erase(victim);
        hand_ = next;
        return;
      }
      victim->used = false;
      if (!sieve_) queue_.splice(queue_.begin(), queue_, victim);
      hand_ = next;
    }
  }

  const size_t frames_;
  const bool sieve_;
  Queue queue_;
  Queue::iterator hand_;
  std::unordered_map<uint64_t, Queue::iterator> at_;
};

// Johnson and Shasha's full 2Q: a quarter of the frames for pages used once, and ghosts for half
// the number of frames.
class TwoQueues final : public EvictionPolicy {
 public:
  explicit TwoQueues(size_t frames) : frames_(frames) {}
  bool Use(uint64_t page) override {
    auto found = at_.find(page);
    if (found != at_.end() && found->second.where == kMain) {
      main_.splice(main_.begin(), main_, found->second.entry);
      return true;
    }
    if (found != at_.end() && found->second.where == kIn) return true;
    const bool again = found != at_.end();
    if (again) {
      out_.erase(found->second.entry);
      at_.erase(found);
    }
    MakeRoom();
    std::list<uint64_t>& queue = again ? main_ : in_;
    queue.push_front(page);
    at_[page] = {again ? kMain : kIn, queue.begin()};
    return false;
  }

 private:
  enum Where : uint8_t { kIn, kOut, kMain };
  struct Place {
    Where where = kIn;
    std::list<uint64_t>::iterator entry;
  };

  void MakeRoom() {
    if (in_.size() + main_.size() < frames_) return;
    if (in_.size() > frames_ / 4 || main_.empty()) {
      const uint64_t page = in_.back();
      out_.splice(out_.begin(), in_, std::prev(in_.end()));
      at_[page] = {kOut, out_.begin()};
      if (out_.size() <= frames_ / 2) return;
      at_.erase(out_.back());
      out_.pop_back();
    } else {
      at_.erase(main_.back());
      main_.pop_back();
    }
  }

  const size_t frames_;
  std::list<uint64_t> in_, out_, main_;
  std::unordered_map<uint64_t, Place> at_;
};

}  // namespace

const std::vector<std::string>& PolicyNames() {
  static const std::vector<std::string> names = {"s3-fifo", "lru", "clock", "sieve", "2q"};
  return names;
}

std::unique_ptr<EvictionPolicy> MakePolicy(std::string_view name, size_t frames) {
  CHECK_GT(frames, 0u);
  if (name == "s3-fifo") return std::make_unique<S3Fifo>(frames);
  if (name == "lru") return std::make_unique<Lru>(frames);
  if (name == "clock") return std::make_unique<Clock>(frames, /*sieve=*/false);
  if (name == "sieve") return std::make_unique<Clock>(frames, /*sieve=*/true);
  if (name == "2q") return std::make_unique<TwoQueues>(frames);
  return nullptr;
}

const std::vector<std::string>& TraceNames() {
  static const std::vector<std::string> names = {"zipfian", "zipfian+scan", "shifting", "uniform", "loop"};
  return names;
}

std::vector<uint64_t> MakeTrace(std::string_view name, const TraceOptions& options) {
  const std::vector<std::string>& names = TraceNames();
  if (std::find(names.begin(), names.end(), name) == names.end()) return {};
  const uint64_t pages = options.pages;
  Random random(options.seed);
  KeyChooser zipfian(Distribution::kZipfian, pages);
  std::vector<uint64_t> trace(options.uses);
  uint64_t scanned = 0;
  for (uint64_t i = 0; i < options.uses; ++i) {
    if (name == "loop") {
      trace[i] = i % (pages / 4);
    } else if (name == "uniform") {
      trace[i] = random.Below(pages);
    } else if (name == "zipfian+scan" && i % 10 == 0) {
      trace[i] = scanned++ % pages;
    } else {
      const uint64_t shift = name == "shifting" ? i * 10 / options.uses * (pages / 3) : 0;
      trace[i] = (zipfian.Next(random) + shift) % pages;
    }
  }
  return trace;
}

double HitRate(EvictionPolicy* policy, const std::vector<uint64_t>& trace) {
  uint64_t hits = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    const bool hit = policy->Use(trace[i]);
    if (i >= trace.size() / 2) hits += hit;
  }
  return static_cast<double>(hits) / static_cast<double>(std::max<size_t>(trace.size() - trace.size() / 2, 1));
}

double BestHitRate(const std::vector<uint64_t>& trace, size_t frames) {
  constexpr size_t kNever = std::numeric_limits<size_t>::max();
  std::vector<size_t> next_use(trace.size(), kNever);
  std::unordered_map<uint64_t, size_t> later;
  for (size_t i = trace.size(); i-- > 0;) {
    auto [at, first] = later.try_emplace(trace[i], i);
    if (!first) next_use[i] = std::exchange(at->second, i);
  }
  std::set<std::pair<size_t, uint64_t>> by_next_use;  // the pages in memory
  std::unordered_map<uint64_t, size_t> in_memory;
  uint64_t hits = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    auto found = in_memory.find(trace[i]);
    if (found != in_memory.end()) {
      hits += i >= trace.size() / 2;
      by_next_use.erase({found->second, trace[i]});
    } else if (in_memory.size() >= frames) {
      auto last = std::prev(by_next_use.end());
      in_memory.erase(last->second);
      by_next_use.erase(last);
    }
    in_memory[trace[i]] = next_use[i];
    by_next_use.insert({next_use[i], trace[i]});
  }
  return static_cast<double>(hits) / static_cast<double>(std::max<size_t>(trace.size() - trace.size() / 2, 1));
}

}  // namespace pando::bench
