// Tests of the linearizability checker: histories of an atomic register must pass, hand-written
// histories of known faults must not, an exhaustive search agrees with it on small histories, and
// each of the faults that the checker can be given is noticed by some history here.
#include "tests/support/linearizability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

using ::testing::HasSubstr;
using Kind = Operation::Kind;
using Value = std::optional<std::string>;

constexpr Nanos kOpen = kNever;

Operation Op(int client, Kind kind, Nanos from, Nanos to) {
  Operation op;
  op.client = client;
  op.kind = kind;
  op.key = "x";
  op.invoked_ns = from;
  op.returned_ns = to;
  return op;
}
Operation Put(int client, const std::string& value, Nanos from, Nanos to) {
  Operation op = Op(client, Kind::kPut, from, to);
  op.value = value;
  return op;
}
Operation Get(int client, Value seen, Nanos from, Nanos to) {
  Operation op = Op(client, Kind::kGet, from, to);
  op.seen = std::move(seen);
  return op;
}
Operation Remove(int client, std::optional<bool> existed, Nanos from, Nanos to) {
  Operation op = Op(client, Kind::kRemove, from, to);
  op.existed = existed;
  return op;
}
Operation Swap(int client, Value expected, const std::string& value, Nanos from, Nanos to) {
  Operation op = Put(client, value, from, to);
  op.kind = Kind::kSwap;
  op.expected = std::move(expected);
  return op;
}
Operation RefusedSwap(int client, Value expected, const std::string& value, Value found, Nanos from, Nanos to) {
  Operation op = Swap(client, std::move(expected), value, from, to);
  op.refused = true;
  op.seen = std::move(found);
  return op;
}
Operation Add(int client, int64_t delta, int64_t number, Nanos from, Nanos to) {
  Operation op = Op(client, Kind::kAdd, from, to);
  op.delta = delta;
  op.number = number;
  return op;
}

struct Case {
  std::string name;
  bool linearizable;
  std::vector<Operation> operations;
};

// Each case is small enough to be judged by eye. Times order the operations; their scale is free.
std::vector<Case> Cases() {
  return {
      {"nothing happened", true, {}},
      {"a read of what was written", true, {Put(1, "1", 10, 20), Get(2, "1", 30, 40)}},
      {"a read of nothing", true, {Get(2, {}, 1, 5), Put(1, "1", 10, 20)}},
      {"two writes at once, read in either order",
       true,
       {Put(1, "1", 10, 50), Put(2, "2", 20, 40), Get(3, "1", 60, 70), Get(3, "1", 80, 90)}},
      {"a read during a write may see either value",
       true,
       {Put(1, "1", 1, 5), Put(1, "2", 10, 90), Get(2, "1", 20, 30), Get(2, "2", 40, 50)}},
      {"the later invocation takes effect first",
       true,
       {Put(1, "1", 10, 100), Put(2, "2", 20, 90), Get(3, "2", 30, 40), Get(3, "1", 50, 60)}},
      {"a stale read", false, {Put(1, "1", 10, 20), Put(1, "2", 30, 40), Get(2, "1", 50, 60)}},
      {"a read of nothing after a write", false, {Put(1, "1", 10, 20), Get(2, {}, 30, 40)}},
      {"a read from the future", false, {Get(2, "1", 1, 5), Put(1, "1", 10, 20)}},
      {"a read of a value that nobody wrote", false, {Put(1, "1", 10, 20), Get(2, "7", 15, 40)}},
      {"non-monotonic reads during one write",
       false,
       {Put(1, "1", 1, 5), Put(1, "2", 10, 90), Get(2, "2", 20, 30), Get(3, "1", 40, 50)}},
      {"two readers disagree about the order",
       false,
       {Put(1, "1", 10, 90), Put(2, "2", 10, 90), Get(3, "1", 100, 110), Get(4, "2", 120, 130)}},
      {"a lost update: two additions return the same", false, {Add(1, 1, 1, 10, 50), Add(2, 1, 1, 20, 60)}},
      {"a lost update: the sum lacks one", false, {Add(1, 1, 1, 10, 20), Add(2, 1, 2, 30, 40), Get(3, "1", 50, 60)}},
      {"additions at once", true, {Add(1, 1, 2, 10, 50), Add(2, 1, 1, 20, 60), Get(3, "2", 70, 80)}},
      {"an addition to a put", true, {Put(1, "40", 1, 2), Add(2, 2, 42, 10, 50), Get(3, "42", 70, 80)}},
      {"an addition to what is not a number", false, {Put(1, "word", 1, 2), Add(2, 2, 2, 10, 50)}},
      {"two swaps from one value both succeed",
       false,
       {Put(1, "1", 1, 5), Swap(2, "1", "2", 10, 50), Swap(3, "1", "3", 10, 50)}},
      {"of two swaps, one is refused",
       true,
       {Put(1, "1", 1, 5), Swap(2, "1", "2", 10, 50), RefusedSwap(3, "1", "3", "2", 10, 50), Get(1, "2", 60, 70)}},
      {"a swap is refused although its value is there",
       false,
       {Put(1, "1", 1, 5), RefusedSwap(2, "1", "2", "1", 10, 20)}},
      {"a refused swap finds another value than there is",
       false,
       {Put(1, "1", 1, 5), RefusedSwap(2, "7", "2", "3", 10, 20)}},
      {"a read of a value from a refused swap",
       false,
       {Put(1, "1", 1, 5), RefusedSwap(2, "7", "2", "1", 10, 20), Get(1, "2", 30, 40)}},
      {"a swap that creates", true, {Swap(1, {}, "1", 10, 20), Get(2, "1", 30, 40)}},
      {"a swap that creates what is there", false, {Put(1, "1", 1, 5), Swap(1, {}, "1", 10, 20)}},
      {"a remove finds a record", true, {Put(1, "1", 1, 5), Remove(2, true, 10, 20), Get(3, {}, 30, 40)}},
      {"two removes both find one record",
       false,
       {Put(1, "1", 1, 5), Remove(2, true, 10, 50), Remove(3, true, 10, 50)}},
      {"a record comes back after its removal",
       false,
       {Put(1, "1", 1, 5), Remove(2, true, 10, 20), Get(3, "1", 30, 40)}},
      // -- unknown outcomes
      {"an unknown write is read late",
       true,
       {Put(1, "1", 1, 5), Put(2, "2", 10, kOpen), Get(3, "1", 20, 30), Get(3, "2", 900, 910)}},
      {"an unknown write never happens",
       true,
       {Put(1, "1", 1, 5), Put(2, "2", 10, kOpen), Get(3, "1", 20, 30), Get(3, "1", 900, 910)}},
      {"an unknown write appears twice",
       false,
       {Put(1, "1", 1, 5), Put(2, "2", 10, kOpen), Get(3, "2", 20, 30), Put(1, "3", 40, 50), Get(3, "3", 60, 70),
        Get(3, "2", 80, 90)}},
      {"an unknown write is read before it was sent",
       false,
       {Put(1, "1", 1, 5), Get(3, "2", 6, 8), Put(2, "2", 10, kOpen)}},
      {"an unknown write is seen, then not",
       false,
       {Put(1, "1", 1, 5), Put(2, "2", 10, kOpen), Get(3, "2", 20, 30), Get(3, "1", 40, 50)}},
      {"two unknown writes of one value appear twice",
       true,
       {Put(1, "1", 1, 5), Put(2, "2", 10, kOpen), Put(3, "2", 12, kOpen), Get(4, "2", 20, 30), Put(1, "3", 40, 50),
        Get(4, "3", 60, 70), Get(4, "2", 80, 90)}},
      {"an unknown addition counts once",
       true,
       {Add(1, 1, 1, 1, 5), Add(2, 1, 0, 10, kOpen), Add(3, 1, 2, 20, 30), Add(3, 1, 4, 40, 50)}},
      {"an unknown addition counts twice",
       false,
       {Add(1, 1, 1, 1, 5), Add(2, 1, 0, 10, kOpen), Add(3, 1, 3, 20, 30), Add(3, 1, 5, 40, 50)}},
      {"an unknown write that was used cannot explain a later value",
       false,
       {Put(1, "1", 1, 2), Put(2, "2", 3, kOpen), Get(3, "2", 10, 20), Put(1, "1", 30, 40), Get(3, "1", 50, 60),
        Get(4, "2", 70, 80)}},
      {"an unused unknown write explains a later value",
       true,
       {Put(1, "1", 1, 2), Put(2, "2", 3, kOpen), Put(1, "2", 10, 20), Get(3, "2", 21, 22), Put(1, "1", 30, 40),
        Get(3, "1", 50, 60), Get(4, "2", 70, 80)}},
      {"a known write explains what an unknown one of the same value is needed for later",
       true,
       {Put(1, "2", 10, 50), Put(2, "2", 5, kOpen), Get(3, "2", 20, 30), Put(1, "3", 60, 70), Get(3, "3", 80, 85),
        Get(3, "2", 90, 95)}},
      {"an unknown removal",
       true,
       {Put(1, "1", 1, 2), Remove(2, {}, 3, kOpen), Get(3, "1", 10, 20), Get(3, {}, 30, 40)}},
      {"an unknown swap happens only where its value is",
       false,
       {Put(1, "1", 1, 2), Swap(2, "7", "2", 3, kOpen), Get(3, "2", 10, 20)}},
      {"an unknown swap happens later",
       true,
       {Put(1, "1", 1, 2), Swap(2, "7", "2", 3, kOpen), Put(1, "7", 10, 20), Get(3, "2", 30, 40)}},
  };
}

TEST(Linearizability, JudgesHandWrittenHistories) {
  for (const Case& c : Cases()) {
    const Linearizability result = CheckLinearizable(History::Of(c.operations));
    EXPECT_EQ(result.ok(), c.linearizable) << c.name << "\n" << result.why;
    EXPECT_NE(result.verdict, Linearizability::Verdict::kTooWide) << c.name;
  }
}

TEST(Linearizability, JudgesEachKeyAlone) {
  std::vector<Operation> ops = {Put(1, "1", 10, 20), Get(2, "2", 30, 40)};
  ops[1].key = "y";
  Operation other = Put(3, "2", 1, 5);
  other.key = "y";
  ops.push_back(other);
  EXPECT_TRUE(CheckLinearizable(History::Of(ops)).ok());
  ops[1].seen = "1";
  EXPECT_THAT(CheckLinearizable(History::Of(ops)).why, HasSubstr("key y: "));
}

TEST(Linearizability, ExplainsWhatIsWrong) {
  const Linearizability result = CheckLinearizable(History::Of(
      {Put(1, "1", 1'000'000, 2'000'000), Put(1, "2", 3'000'000, kOpen), Get(2, "7", 5'000'000, 6'000'000)}));
  EXPECT_EQ(result.verdict, Linearizability::Verdict::kNo);
  EXPECT_EQ(result.why,
            "key x: no order of the operations explains this answer:\n"
            "  client 2 gets x = 7, from 5.000000 to 6.000000 ms\n"
            "Before it, the value could only be one of: 1, 2\n"
            "The operations on this key up to then:\n"
            "  client 1 puts x = 1, from 1.000000 to 2.000000 ms\n"
            "  client 1 puts x = 2, from 3.000000 with unknown outcome\n"
            "  client 2 gets x = 7, from 5.000000 to 6.000000 ms\n");
}

TEST(Linearizability, IgnoresWhatHadNoEffect) {
  History history;
  history.Begin(Put(1, "1", 0, kOpen), 10);
  history.Forget(0);
  const size_t id = history.Begin(Get(2, {}, 0, kOpen), 20);
  history.operation(id).seen = "1";
  history.Finish(id, 30);
  EXPECT_FALSE(CheckLinearizable(history).ok());
}

// -- histories of a register

struct Shape {
  int clients = 3;
  int operations = 60;  // of each client
  int values = 4;       // few, so that different writes write the same
  double unknown = 0.05;
  int most_unknown = 1000;
  std::vector<Kind> kinds = {Kind::kGet, Kind::kPut, Kind::kRemove, Kind::kSwap, Kind::kAdd};
  int64_t most_delta = 2;
  // Removes say whether there was a record. Then any of many unknown writes may have created it, and
  // every choice is another explanation.
  bool tells_existed = true;
};

Operation RandomOperation(SimRandom* random, int client, const Shape& shape) {
  auto value = [&] { return std::to_string(random->Below(shape.values)); };
  Operation op = Op(client, shape.kinds[random->Below(shape.kinds.size())], 0, 0);
  op.value = value();
  if (random->Chance(0.8)) op.expected = value();
  op.delta = random->Between(1, shape.most_delta);
  return op;
}

void Apply(Operation* op, Value* state) {
  switch (op->kind) {
    case Kind::kGet: op->seen = *state; break;
    case Kind::kPut: *state = op->value; break;
    case Kind::kRemove:
      op->existed = state->has_value();
      state->reset();
      break;
    case Kind::kSwap:
      op->refused = *state != op->expected;
      op->seen = *state;
      if (!op->refused) *state = op->value;
      break;
    case Kind::kAdd:
      op->number = (*state ? std::stoll(**state) : 0) + op->delta;
      *state = std::to_string(op->number);
      break;
  }
}

// Runs random operations on an atomic register. Each takes effect at a random time of its duration,
// or, if the client does not learn its outcome, at any later time or never.
std::vector<Operation> RunRegister(uint64_t seed, const Shape& shape) {
  SimRandom random(seed);
  std::vector<Operation> ops;
  std::vector<std::pair<Nanos, size_t>> effects;
  int unknown = 0;
  for (int client = 1; client <= shape.clients; ++client) {
    Nanos now = static_cast<Nanos>(random.Below(1000));
    for (int i = 0; i < shape.operations; ++i) {
      Operation op = RandomOperation(&random, client, shape);
      op.invoked_ns = now += 1 + static_cast<Nanos>(random.Below(200));
      op.returned_ns = now += 1 + static_cast<Nanos>(random.Below(1000));
      Nanos effect = random.Between(op.invoked_ns, op.returned_ns);
      bool happens = true;
      if (unknown < shape.most_unknown && random.Chance(shape.unknown)) {
        ++unknown;
        op.returned_ns = kOpen;
        happens = random.Chance(0.6);
        effect = op.invoked_ns + static_cast<Nanos>(random.Below(random.Chance(0.5) ? 2000 : 20'000));
      }
      if (happens) effects.emplace_back(effect, ops.size());
      ops.push_back(std::move(op));
    }
  }
  std::sort(effects.begin(), effects.end());
  Value state;
  for (auto [at, index] : effects) Apply(&ops[index], &state);
  for (Operation& op : ops) {
    if (!shape.tells_existed) op.existed.reset();
    if (op.finished()) continue;
    op.refused = false;  // its client does not know
    op.existed.reset();
    op.seen.reset();
  }
  return ops;
}

Shape ShapeOf(uint64_t seed) {
  SimRandom random(seed * 31);
  Shape shape;
  shape.clients = 1 + static_cast<int>(random.Below(5));
  shape.operations = 20 + static_cast<int>(random.Below(150));
  shape.unknown = random.Chance(0.3) ? 0 : 0.01 * static_cast<double>(random.Below(8));
  switch (random.Below(3)) {
    case 0:  // a register whose values tell the writes apart
      shape.kinds = {Kind::kGet, Kind::kPut, Kind::kPut, Kind::kRemove};
      shape.values = 1'000'000;
      shape.tells_existed = shape.unknown == 0;
      break;
    case 1:  // a counter
      shape.kinds = {Kind::kGet, Kind::kAdd, Kind::kAdd};
      shape.most_delta = 1;
      break;
    default:  // everything, in many possible orders
      shape.clients = std::min(shape.clients, 3);
      shape.most_unknown = 4;
      break;
  }
  return shape;
}

TEST(Linearizability, AcceptsEveryHistoryOfARegister) {
  for (uint64_t seed : Seeds(80)) {
    SCOPED_TRACE(Replay(seed));
    const Linearizability result = CheckLinearizable(History::Of(RunRegister(seed, ShapeOf(seed))));
    ASSERT_TRUE(result.ok()) << result.why;
  }
}

// A read after everything that returns what was never written, or what a later write replaced, is
// found in long histories too.
TEST(Linearizability, FindsOneWrongReadInALongHistory) {
  for (uint64_t seed : Seeds(40)) {
    SCOPED_TRACE(Replay(seed));
    Shape shape = ShapeOf(seed);
    shape.values = 1'000'000;
    std::vector<Operation> ops = RunRegister(seed, shape);
    Nanos end = 0;
    for (const Operation& op : ops) end = std::max(end, op.finished() ? op.returned_ns : op.invoked_ns);
    ops.push_back(Put(1, "first", end + 10, end + 20));
    ops.push_back(Put(1, "second", end + 30, end + 40));
    ops.push_back(Get(2, "first", end + 50, end + 60));
    EXPECT_EQ(CheckLinearizable(History::Of(ops)).verdict, Linearizability::Verdict::kNo);
    ops.back().seen = "never written";
    EXPECT_EQ(CheckLinearizable(History::Of(ops)).verdict, Linearizability::Verdict::kNo);
    ops.back().seen = "second";
    EXPECT_TRUE(CheckLinearizable(History::Of(ops)).ok());
  }
}

// -- an exhaustive search, as slow as it is simple

std::optional<Value> StepSimply(const Operation& op, Value state) {
  Operation told = op;
  if (op.kind == Kind::kAdd && state && state->find_first_not_of("-0123456789") != std::string::npos) return {};
  Apply(&told, &state);
  if (!op.finished()) return state;
  if (op.kind == Kind::kGet && told.seen != op.seen) return {};
  if (op.kind == Kind::kSwap && (told.refused != op.refused || (op.refused && told.seen != op.seen))) return {};
  if (op.kind == Kind::kRemove && told.existed != op.existed) return {};
  if (op.kind == Kind::kAdd && told.number != op.number) return {};
  return state;
}

bool SearchSimply(const std::vector<Operation>& ops, std::set<size_t> left, const Value& state) {
  Nanos first_return = kNever;
  for (size_t i : left) first_return = std::min(first_return, ops[i].returned_ns);
  if (first_return == kNever) return true;
  for (size_t i : left) {
    if (ops[i].invoked_ns > first_return) continue;  // another one had returned before it began
    std::optional<Value> next = StepSimply(ops[i], state);
    if (!next) continue;
    std::set<size_t> rest = left;
    rest.erase(i);
    if (SearchSimply(ops, rest, *next)) return true;
  }
  return false;
}

// A short history of a register in which some answers have been changed.
std::vector<Operation> SmallHistory(uint64_t seed) {
  SimRandom random(seed);
  Shape shape;
  shape.clients = 2 + static_cast<int>(random.Below(2));
  shape.operations = 2 + static_cast<int>(random.Below(2));
  shape.values = 3;
  shape.unknown = 0.25;
  std::vector<Operation> ops = RunRegister(random.Next(), shape);
  for (uint64_t changes = random.Below(3); changes > 0; --changes) {
    Operation& op = ops[random.Below(ops.size())];
    if (!op.finished()) continue;
    const std::string value = std::to_string(random.Below(4));
    if (op.kind == Kind::kGet) op.seen = random.Chance(0.2) ? Value() : Value(value);
    if (op.kind == Kind::kSwap) op.refused = random.Chance(0.5);
    if (op.kind == Kind::kSwap && op.refused) op.seen = value;
    if (op.kind == Kind::kRemove) op.existed = random.Chance(0.5);
    if (op.kind == Kind::kAdd) op.number = static_cast<int64_t>(random.Below(5));
  }
  return ops;
}

TEST(Linearizability, AgreesWithAnExhaustiveSearch) {
  int linearizable = 0, seeds = 0;
  for (uint64_t seed : Seeds(800)) {
    SCOPED_TRACE(Replay(seed));
    const std::vector<Operation> ops = SmallHistory(seed);
    std::set<size_t> all;
    for (size_t i = 0; i < ops.size(); ++i) all.insert(i);
    const bool expected = SearchSimply(ops, all, Value());
    const History history = History::Of(ops);
    ASSERT_EQ(CheckLinearizable(history).ok(), expected) << history.ToString();
    linearizable += expected;
    ++seeds;
  }
  if (seeds > 1) {
    EXPECT_GT(linearizable, 160);
    EXPECT_LT(linearizable, 700);
  }
}

TEST(Linearizability, NoticesEveryFaultOfTheChecker) {
  const std::map<CheckerMutant, std::string> mutants = {
      {CheckerMutant::kNoRealTime, "no real time"},         {CheckerMutant::kUnknownTwice, "unknown twice"},
      {CheckerMutant::kUnknownNever, "unknown never"},      {CheckerMutant::kRefusedWrites, "refused writes"},
      {CheckerMutant::kReadsAreFree, "reads are free"},     {CheckerMutant::kNumbersAreFree, "numbers are free"},
      {CheckerMutant::kFirstOrderOnly, "first order only"}, {CheckerMutant::kMoreUsedIsBetter, "more used is better"},
  };
  for (const auto& [mutant, name] : mutants) {
    LinearizabilityOptions options;
    options.mutant = mutant;
    std::vector<std::string> noticed;
    for (const Case& c : Cases()) {
      if (CheckLinearizable(History::Of(c.operations), options).ok() != c.linearizable) noticed.push_back(c.name);
    }
    EXPECT_FALSE(noticed.empty()) << "no history here notices: " << name;
  }
}

// Crashes leave operations open for ever. They must not make the work grow without bound.
TEST(Linearizability, StaysFastWithManyUnknownOutcomes) {
  SimRandom random(9);
  Shape shape;
  shape.values = 1'000'000;
  std::vector<Operation> ops;
  Value state;
  Nanos now = 0;
  for (int i = 0; i < 2000; ++i) {
    Operation op = i % 10 == 0 ? Put(1, std::to_string(1'000'000 + i), 0, 0) : RandomOperation(&random, 1, shape);
    op.invoked_ns = now += 10;
    op.returned_ns = i % 10 == 0 ? kOpen : now += 10;
    if (op.finished() || random.Chance(0.3)) Apply(&op, &state);
    op.existed.reset();
    ops.push_back(std::move(op));
  }
  const Linearizability result = CheckLinearizable(History::Of(ops));
  EXPECT_TRUE(result.ok()) << result.why;
  EXPECT_LT(result.most_configurations, 1000u);
}

// Where the number of explanations really explodes, the checker gives up and says so.
TEST(Linearizability, GivesUpInBoundedTime) {
  std::vector<Operation> ops;
  for (int i = 0; i < 40; ++i) ops.push_back(Add(i, int64_t{1} << i, 0, 1, kOpen));
  ops.push_back(Get(50, "-1", 10, 20));
  LinearizabilityOptions options;
  options.max_configurations = 5000;
  const Linearizability result = CheckLinearizable(History::Of(ops), options);
  EXPECT_EQ(result.verdict, Linearizability::Verdict::kTooWide);
  EXPECT_THAT(result.why, HasSubstr("more than 5000 ways"));
}

}  // namespace
}  // namespace pando
