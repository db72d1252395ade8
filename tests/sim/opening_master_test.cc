// A master that was named and has not opened yet, in a cluster of three (small_cluster.h): what it does with writes
// that come too early.
#include <gtest/gtest.h>

#include "tests/sim/small_cluster.h"
#include "tests/support/child_process.h"

namespace pando {
namespace {

constexpr Nanos kBudgetNs = 10 * kSecond;

struct Outcome {
  std::optional<Code> code;
  Nanos took_ns = 0;
};

// A write as clients send it: with a deadline.
Task<void> PutAt(SmallCluster* c, size_t node, Outcome* outcome) {
  Reactor& reactor = c->member(node).reactor();
  const Nanos began_ns = reactor.NowNs();
  WriteControl control;
  control.deadline_ns = began_ns + kBudgetNs;
  std::vector<WriteOp> ops(1);
  ops[0].op = RecordOp::kPut;
  ops[0].key = "key";
  ops[0].value = "value";
  WriteOptions options;
  options.control = &control;
  outcome->code = (co_await c->place(node)->Write(std::move(ops), options)).code();
  outcome->took_ns = reactor.NowNs() - began_ns;
}

// The third member is cut off right before a handover, so the new master waits for it before it opens: until it has
// left the ISR, or for ever if it must not.
Outcome PutWhileItOpens(uint32_t min_isr) {
  Outcome outcome;
  SmallCluster cluster(1, min_isr);
  SmallCluster* c = &cluster;
  EXPECT_TRUE(c->StartAll());
  EXPECT_EQ(c->Put("before", "1"), Code::kOk);
  c->Run(kSecond);
  const size_t old = c->master(), next = (old + 1) % 3, away = (old + 2) % 3;
  for (const size_t i : {old, next}) c->kernel().network().CutBoth(c->machine(i).host(), c->machine(away).host());
  const auto done = c->On(old, c->member(old).host()->HandOver(0, static_cast<NodeId>(next + 1), 0, kSecond));
  EXPECT_TRUE(done.ok()) << done.status().ToString();
  const auto opens = [&] { return c->core(next)->leader().active() && !c->core(next)->leader().is_open(); };
  EXPECT_TRUE(c->RunUntil(opens, kSecond)) << "it should not have opened";
  c->member(next).calls().Spawn(PutAt(c, next, &outcome));
  EXPECT_TRUE(c->RunUntil([&] { return outcome.code.has_value(); }, 2 * kBudgetNs));
  return outcome;
}

TEST(OpeningMaster, HoldsWritesUntilItIsOpen) {
  EXPECT_TRUE(InChildProcess([] {
    FLAGS_minloglevel = 3;
    const Outcome outcome = PutWhileItOpens(/*min_isr=*/2);
    EXPECT_EQ(outcome.code, Code::kOk);
    EXPECT_LT(outcome.took_ns, kSecond);
    return !testing::Test::HasFailure();
  }));
}

TEST(OpeningMaster, HoldsThemNotForLong) {
  EXPECT_TRUE(InChildProcess([] {
    FLAGS_minloglevel = 3;
    const Outcome outcome = PutWhileItOpens(/*min_isr=*/3);
    EXPECT_EQ(outcome.code, Code::kNotMaster) << "nothing was appended";
    EXPECT_GT(outcome.took_ns, kSecond / 2);
    EXPECT_LT(outcome.took_ns, kSecond + 200 * kMillisecond);
    return !testing::Test::HasFailure();
  }));
}

}  // namespace
}  // namespace pando
