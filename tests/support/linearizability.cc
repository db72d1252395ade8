#include "tests/support/linearizability.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "src/base/check.h"

namespace pando {
namespace {

using Value = std::optional<std::string>;
using Ids = std::vector<uint32_t>;  // sorted indices of operations

constexpr size_t kShownOperations = 24;
constexpr size_t kMostNeeded = 10'000;

std::optional<int64_t> Number(const Value& value) {
  if (!value) return 0;
  int64_t number = 0;
  auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  if (error != std::errc() || end != value->data() + value->size() || value->empty()) return std::nullopt;
  return number;
}

bool Contains(const Ids& ids, uint32_t id) { return std::binary_search(ids.begin(), ids.end(), id); }
Ids With(Ids ids, uint32_t id) {
  ids.insert(std::lower_bound(ids.begin(), ids.end(), id), id);
  return ids;
}
Ids Without(Ids ids, uint32_t id) {
  ids.erase(std::lower_bound(ids.begin(), ids.end(), id));
  return ids;
}

class KeyChecker {
 public:
  KeyChecker(const std::string& key, std::vector<Operation> ops, const LinearizabilityOptions& options)
      : key_(key), ops_(std::move(ops)), options_(options) {}

  Linearizability Check() {
    configurations_ = {{Value(), Ids(), Ids()}};
    for (const Event& event : Events()) {
      if (!event.is_return) {
        if (ops_[event.op].finished()) {
          open_.push_back(event.op);
        } else {
          NoteUnknown(event.op);
        }
        continue;
      }
      const Explored outcome = Return(event.op);
      if (outcome == Explored::kTooMany) return TooWide(event.op);
      if (outcome == Explored::kNone) return Fail(event.op);
      std::erase(open_, event.op);
      result_.most_configurations = std::max(result_.most_configurations, configurations_.size());
    }
    return std::move(result_);
  }

 private:
  struct Event {
    Nanos at_ns;
    uint64_t order;
    uint32_t op;
    bool is_return;
    auto operator<=>(const Event& o) const { return std::tie(at_ns, order) <=> std::tie(o.at_ns, o.order); }
  };
  struct Configuration {
    Value value;
    Ids done;  // finished operations that have taken effect and have not returned yet
    Ids used;  // operations of unknown outcome that have taken effect
  };
  using Request = std::tuple<Operation::Kind, std::string, Value, int64_t>;
  enum class Explored { kSome, kNone, kTooMany };
  // The minimal sets of used operations for each value and each set of done ones.
  using Seen = std::map<std::pair<Value, Ids>, std::vector<Ids>>;

  bool Is(CheckerMutant mutant) const { return options_.mutant == mutant; }

  std::vector<Event> Events() const {
    std::vector<Event> events;
    for (uint32_t i = 0; i < ops_.size(); ++i) {
      const Operation& op = ops_[i];
      events.push_back({Is(CheckerMutant::kNoRealTime) ? 0 : op.invoked_ns, op.invoked_order, i, false});
      if (op.finished()) events.push_back({op.returned_ns, op.returned_order, i, true});
    }
    std::sort(events.begin(), events.end());
    return events;
  }

  static bool OnlyReads(const Operation& op) { return op.kind == Operation::Kind::kGet || op.refused; }

  // The value after the operation, or nothing if it cannot have taken effect here with this answer.
  std::optional<Value> Step(const Operation& op, const Value& value) const {
    switch (op.kind) {
      case Operation::Kind::kGet:
        if (op.seen != value && !Is(CheckerMutant::kReadsAreFree)) return std::nullopt;
        return value;
      case Operation::Kind::kPut: return Value(op.value);
      case Operation::Kind::kRemove:
        if (op.existed && *op.existed != value.has_value()) return std::nullopt;
        return Value();
      case Operation::Kind::kSwap:
        if (op.refused && Is(CheckerMutant::kRefusedWrites)) return Value(op.value);
        if (op.refused) return value == op.expected || op.seen != value ? std::nullopt : std::optional<Value>(value);
        return value == op.expected ? std::optional<Value>(op.value) : std::nullopt;
      case Operation::Kind::kAdd: {
        int64_t sum = 0;
        const std::optional<int64_t> number = Number(value);
        if (!number || __builtin_add_overflow(*number, op.delta, &sum)) return std::nullopt;
        if (op.finished() && sum != op.number && !Is(CheckerMutant::kNumbersAreFree)) return std::nullopt;
        return Value(std::to_string(sum));
      }
    }
    return std::nullopt;
  }

  // Operations of one class ask for the same.
  void NoteUnknown(uint32_t op) {
    const Operation& o = ops_[op];
    const bool writes_value = o.kind == Operation::Kind::kPut || o.kind == Operation::Kind::kSwap;
    const Request request{o.kind, writes_value ? o.value : "", o.kind == Operation::Kind::kSwap ? o.expected : Value(),
                          o.kind == Operation::Kind::kAdd ? o.delta : 0};
    auto [it, added] = classes_.emplace(request, static_cast<uint32_t>(classes_.size()));
    if (added) representatives_.push_back(op);
    unknown_.push_back({op, it->second});
  }

  static void AddNumber(std::set<Value>* values, int64_t number) {
    values->insert(std::to_string(number));
    if (number == 0) values->insert(Value());
  }

  // The values that the open operations need to find. Nothing: every value may be needed.
  std::optional<std::set<Value>> NeededByOpen() const {
    std::set<Value> values;
    for (uint32_t p : open_) {
      const Operation& op = ops_[p];
      switch (op.kind) {
        case Operation::Kind::kGet: values.insert(op.seen); break;
        case Operation::Kind::kPut: break;
        case Operation::Kind::kRemove:
          if (op.existed == true) return std::nullopt;
          values.insert(Value());
          break;
        case Operation::Kind::kSwap: values.insert(op.refused ? op.seen : op.expected); break;
        case Operation::Kind::kAdd: AddNumber(&values, op.number - op.delta); break;
      }
    }
    return values;
  }

  // The values that an operation of unknown outcome must write, if it is to explain anything: those
  // that the open operations need, and those from which other unknown operations lead there. A
  // value that is overwritten before anything needs it explains nothing.
  std::optional<std::set<Value>> Needed() const {
    std::optional<std::set<Value>> needed = NeededByOpen();
    if (!needed) return std::nullopt;
    std::set<Value> work = *needed;
    for (size_t left = unknown_.size(); left > 0 && !work.empty(); --left) {
      std::set<Value> before;
      for (const Value& value : work) AddPredecessors(value, &before);
      work.clear();
      for (const Value& v : before) {
        if (needed->insert(v).second) work.insert(v);
      }
      if (needed->size() > kMostNeeded) return std::nullopt;
    }
    return needed;
  }

  // The values from which an unknown operation makes `value`.
  void AddPredecessors(const Value& value, std::set<Value>* before) const {
    for (uint32_t p : representatives_) {
      const Operation& op = ops_[p];
      if (op.kind == Operation::Kind::kSwap && value == op.value) before->insert(op.expected);
      const std::optional<int64_t> sum = op.kind == Operation::Kind::kAdd && value ? Number(value) : std::nullopt;
      if (sum) AddNumber(before, *sum - op.delta);
    }
  }

  // Adds the configuration unless another one replaces it.
  bool Insert(Seen* seen, const Configuration& c) {
    std::vector<Ids>& sets = (*seen)[{c.value, c.done}];
    const bool wrong = Is(CheckerMutant::kMoreUsedIsBetter);
    auto replaces = [wrong](const Ids& a, const Ids& b) {
      return wrong ? std::includes(a.begin(), a.end(), b.begin(), b.end())
                   : std::includes(b.begin(), b.end(), a.begin(), a.end());
    };
    for (const Ids& used : sets) {
      if (replaces(used, c.used)) return false;
    }
    std::erase_if(sets, [&](const Ids& used) { return replaces(c.used, used); });
    sets.push_back(c.used);
    ++explored_;
    return true;
  }

  void AbsorbReads(Configuration* c, uint32_t returning) const {
    for (uint32_t p : open_) {
      if (p == returning || !OnlyReads(ops_[p]) || Contains(c->done, p)) continue;
      if (Step(ops_[p], c->value) == std::optional<Value>(c->value)) c->done = With(std::move(c->done), p);
    }
  }

  // Whether an operation of unknown outcome can help to explain the answer of `returning`, or of
  // another open one. If they fit without it, a configuration that has used fewer replaces it.
  bool NeedsUnknown(const Configuration& c, uint32_t returning) const {
    if (!Step(ops_[returning], c.value)) return true;
    return std::any_of(open_.begin(), open_.end(), [&](uint32_t p) {
      return p != returning && ops_[p].kind != Operation::Kind::kPut && !Contains(c.done, p);
    });
  }

  // Lets every open operation, other than the returning one, take effect in `c`.
  void Extend(const Configuration& c, uint32_t returning, const std::optional<std::set<Value>>& needed,
              std::vector<Configuration>* next) const {
    for (uint32_t p : open_) {
      if (p == returning || Contains(c.done, p) || (OnlyReads(ops_[p]) && !Is(CheckerMutant::kRefusedWrites))) continue;
      if (std::optional<Value> value = Step(ops_[p], c.value)) next->push_back({*value, With(c.done, p), c.used});
      if (Is(CheckerMutant::kFirstOrderOnly)) break;
    }
    if (Is(CheckerMutant::kUnknownNever) || !NeedsUnknown(c, returning)) return;
    std::vector<bool> tried(classes_.size(), false);
    for (const auto& [p, of] : unknown_) {
      // Of those that ask for the same, the first unused one takes effect first.
      if (tried[of] || Contains(c.used, p)) continue;
      tried[of] = true;
      std::optional<Value> value = Step(ops_[p], c.value);
      if (!value || *value == c.value || (needed && !needed->contains(*value))) continue;
      next->push_back({*value, c.done, Is(CheckerMutant::kUnknownTwice) ? c.used : With(c.used, p)});
    }
  }

  // Replaces the configurations by those in which `op` has taken effect.
  Explored Return(uint32_t op) {
    Seen seen, after;
    const std::optional<std::set<Value>> needed = unknown_.empty() ? std::nullopt : Needed();
    explored_ = 0;
    std::vector<Configuration> work;
    for (Configuration& c : configurations_) {
      AbsorbReads(&c, op);
      if (Insert(&seen, c)) work.push_back(std::move(c));
    }
    while (!work.empty()) {
      const Configuration c = std::move(work.back());
      work.pop_back();
      if (Contains(c.done, op)) {
        Insert(&after, {c.value, Without(c.done, op), c.used});
        continue;
      }
      if (std::optional<Value> value = Step(ops_[op], c.value)) Insert(&after, {*value, c.done, c.used});
      std::vector<Configuration> next;
      Extend(c, op, needed, &next);
      for (Configuration& n : next) {
        AbsorbReads(&n, op);
        if (Insert(&seen, n)) work.push_back(std::move(n));
      }
      if (explored_ > options_.max_configurations) return Explored::kTooMany;
    }
    if (after.empty()) {
      NoteValuesBefore(seen);
      return Explored::kNone;
    }
    configurations_.clear();
    for (auto& [state, sets] : after) {
      for (Ids& used : sets) configurations_.push_back({state.first, state.second, std::move(used)});
    }
    return Explored::kSome;
  }

  // The values that were possible before an answer that nothing explains.
  void NoteValuesBefore(const Seen& seen) {
    auto note = [this](const Value& value) { values_before_.insert(value ? *value : "nothing"); };
    for (const auto& [state, sets] : seen) {
      note(state.first);
      for (const auto& [p, of] : unknown_) {
        const bool used = std::all_of(sets.begin(), sets.end(), [p = p](const Ids& s) { return Contains(s, p); });
        const std::optional<Value> value = used ? std::nullopt : Step(ops_[p], state.first);
        if (value) note(*value);
      }
    }
  }

  // The operations of this key that had been invoked when `op` returned, the last ones only.
  std::string Around(uint32_t op) const {
    std::vector<const Operation*> shown;
    for (const Operation& o : ops_) {
      if (o.invoked_ns <= ops_[op].returned_ns) shown.push_back(&o);
    }
    std::sort(shown.begin(), shown.end(), [](auto* a, auto* b) { return a->invoked_order < b->invoked_order; });
    std::string text;
    for (size_t i = shown.size() > kShownOperations ? shown.size() - kShownOperations : 0; i < shown.size(); ++i) {
      text += "  " + shown[i]->ToString(options_.zero_ns) + "\n";
    }
    return text;
  }

  Linearizability Fail(uint32_t op) {
    result_.verdict = Linearizability::Verdict::kNo;
    result_.why = fmt::format(
        "key {}: no order of the operations explains this answer:\n  {}\nBefore it, the value could only be one of: "
        "{}\nThe operations on this key up to then:\n{}",
        key_, ops_[op].ToString(options_.zero_ns), fmt::join(values_before_, ", "), Around(op));
    return std::move(result_);
  }

  Linearizability TooWide(uint32_t op) {
    result_.verdict = Linearizability::Verdict::kTooWide;
    result_.why = fmt::format("key {}: more than {} ways to explain the history up to this answer: {}", key_,
                              options_.max_configurations, ops_[op].ToString(options_.zero_ns));
    return std::move(result_);
  }

  const std::string key_;
  const std::vector<Operation> ops_;
  const LinearizabilityOptions options_;
  std::vector<Configuration> configurations_;
  std::vector<uint32_t> open_;
  std::vector<std::pair<uint32_t, uint32_t>> unknown_;  // operation, class
  std::map<Request, uint32_t> classes_;
  std::vector<uint32_t> representatives_;  // one operation of each class
  std::set<std::string> values_before_;
  size_t explored_ = 0;
  Linearizability result_;
};

}  // namespace

Linearizability CheckLinearizable(const History& history, const LinearizabilityOptions& options) {
  Linearizability all;
  std::map<std::string, std::vector<Operation>> by_key;
  for (const Operation& op : history.operations()) {
    // An open read tells nothing.
    if (op.forgotten || (op.kind == Operation::Kind::kGet && !op.finished())) continue;
    by_key[op.key].push_back(op);
  }
  for (auto& [key, ops] : by_key) {
    Linearizability one = KeyChecker(key, std::move(ops), options).Check();
    all.most_configurations = std::max(all.most_configurations, one.most_configurations);
    if (one.ok()) continue;
    one.most_configurations = all.most_configurations;
    return one;
  }
  return all;
}

}  // namespace pando
