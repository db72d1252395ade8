#include "tests/sim/random_story.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/support/sim_random.h"

namespace pando {
namespace {

// A fault: its statement, and the one that ends it. Those without an end pass by themselves.
struct Fault {
  std::string begins, ends;
  bool down = false;     // the node does not run until it ends
  bool needs_up = true;  // tells something only of a node that runs
};

class Writer {
 public:
  explicit Writer(uint64_t seed) : random_(seed) {}

  std::string Write() {
    const uint64_t reactors = 1 + random_.Below(2);
    Say(fmt::format("machine a starts with {} reactors", reactors));
    start_ = lines_.back();
    Say(fmt::format("{} clients work on {} keys", 2 + random_.Below(4), 1 + random_.Below(3)));
    for (uint64_t faults = 6 + random_.Below(14); faults > 0; --faults) {
      Wait();
      if (!active_.empty() && random_.Chance(0.5)) {
        EndOne();
      } else {
        Begin(RandomFault());
      }
    }
    while (!active_.empty()) {
      Wait();
      EndOne();
    }
    if (random_.Chance(0.5)) Say("heal");
    Say(fmt::format("wait {}ms", 200 + random_.Below(1000)));
    Say("clients stop");
    std::string text;
    for (const std::string& line : lines_) text += line + "\n";
    return text;
  }

 private:
  void Say(std::string line) { lines_.push_back(std::move(line)); }
  void Wait() {
    // Microseconds, so that a fault meets every state of an operation.
    Say(fmt::format("wait {}us", random_.Chance(0.3) ? random_.Below(3000) : random_.Below(400'000)));
  }
  bool down() const {
    return std::any_of(active_.begin(), active_.end(), [](const Fault& f) { return f.down; });
  }
  bool Is(const std::string& end) const {
    return std::any_of(active_.begin(), active_.end(), [&](const Fault& f) { return f.ends == end; });
  }

  void Begin(const Fault& fault) {
    if (fault.needs_up && down()) return;
    if (!fault.ends.empty() && Is(fault.ends)) return;
    if (fault.begins == "machine a stops" && (Is("disk a recovers") || Is("disk a has room"))) return;
    Say(fault.begins);
    if (!fault.ends.empty()) active_.push_back(fault);
  }
  void EndOne() {
    // A node that starts while its disk is full or hangs is another story: first the disk recovers.
    size_t which = random_.Below(active_.size());
    for (size_t i = 0; i < active_.size() && active_[which].down; ++i) {
      if (active_[i].ends.starts_with("disk")) which = i;
    }
    Say(active_[which].ends);
    active_.erase(active_.begin() + static_cast<ptrdiff_t>(which));
  }

  std::string Milliseconds(uint64_t least, uint64_t most) {
    return fmt::format("{}ms", random_.Between(static_cast<int64_t>(least), static_cast<int64_t>(most)));
  }
  std::string OneClient() { return fmt::format("client{}", 1 + random_.Below(3)); }
  // "a -> clients", or the other way round, or only one client.
  std::string Path(std::string* reverse = nullptr) {
    const std::string other = random_.Chance(0.5) ? "clients" : OneClient();
    if (reverse) *reverse = fmt::format("{} -> a", other);
    return random_.Chance(0.5) ? fmt::format("a -> {}", other) : fmt::format("{} -> a", other);
  }

  Fault RandomFault() {
    switch (random_.Below(3)) {
      case 0: return Crash();
      case 1: return NetworkFault();
      default: return MachineFault();
    }
  }
  Fault Crash() {
    switch (random_.Below(4)) {
      case 0: return {"machine a crashes", start_, true};
      case 1: return {"power fails everywhere", start_, true};
      case 2: return {"machine a stops", start_, true};
      default: return {"machine a loses power", start_, true};
    }
  }
  Fault NetworkFault() {
    const std::string path = Path();
    switch (random_.Below(6)) {
      case 0: return {"cut " + path, "heal " + path, false, false};
      case 1: return {"cut a -- clients", "heal a -- clients", false, false};
      case 2: return {fmt::format("delay {} by 1ms to {}", path, Milliseconds(2, 300)), "heal " + path, false, false};
      case 3: return {fmt::format("hold {} for {}", path, Milliseconds(1, 3000)), ""};
      case 4: return {"reset a -- " + OneClient(), ""};
      default:
        return random_.Chance(0.5) ? Fault{"machine a forgets " + OneClient(), ""}
                                   : Fault{fmt::format("machine {} forgets a", OneClient()), ""};
    }
  }
  Fault MachineFault() {
    switch (random_.Below(10)) {
      case 0: return {"pause a for " + Milliseconds(1, 2500), ""};
      case 1: return {"freeze a for " + Milliseconds(1, 2500), ""};
      case 2:
      case 3:
        return {fmt::format("pause a inside a turn for {} after {} calls", Milliseconds(1, 2500), random_.Below(60)),
                ""};
      case 4:
        return {fmt::format("clock a runs at {}ppm", random_.Between(-200'000, 200'000)), "clock a runs at +0ppm"};
      case 5: return {fmt::format("clock a jumps by {}s", random_.Between(-100, 100)), "", false, false};
      case 6: return {"disk a takes 1ms to " + Milliseconds(2, 200), "disk a recovers"};
      case 7: return {random_.Chance(0.5) ? "disk a hangs" : "disk a hangs in syncs", "disk a recovers"};
      case 8: return {"disk a is full", "disk a has room"};
      default:
        return {fmt::format("disk a fails {} syncs\nwait {}\nmachine a crashes\ndisk a recovers", 1 + random_.Below(2),
                            Milliseconds(1, 300)),
                start_, true};
    }
  }

  SimRandom random_;
  std::vector<std::string> lines_;
  std::vector<Fault> active_;
  std::string start_;
};

}  // namespace

std::string RandomStory(uint64_t seed) { return Writer(seed).Write(); }

std::vector<Statement> ShrinkStory(std::vector<Statement> story, int most_runs,
                                   const std::function<bool(const std::vector<Statement>&)>& fails) {
  for (size_t chunk = std::max<size_t>(story.size() / 2, 1); chunk > 0; chunk /= 2) {
    // From the end, because what comes after the failure is never needed.
    for (size_t end = story.size(); end > 0 && most_runs > 0; end -= std::min(end, chunk)) {
      const size_t begin = end - std::min(end, chunk);
      std::vector<Statement> rest = story;
      rest.erase(rest.begin() + static_cast<ptrdiff_t>(begin),
                 rest.begin() + static_cast<ptrdiff_t>(std::min(end, rest.size())));
      --most_runs;
      if (fails(rest)) story = std::move(rest);
    }
  }
  return story;
}

}  // namespace pando
