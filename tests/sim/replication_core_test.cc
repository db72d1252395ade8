// The replication core (src/replication) under faults: tests/sim/replication_cluster.h.
//
//   PANDO_TEST_SEED=S bin/sim_replication_core --gtest_filter=...     replays a seed and tells its story
//   PANDO_TEST_MUTANT=NAME                                            only that mutant, with its story
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "tests/sim/replication_cluster.h"
#include "tests/support/replay_simulation.h"
#include "tests/support/seeds.h"

namespace pando::replication {
namespace {

std::string Tell(const SimOutcome& outcome) {
  std::string text;
  const size_t from = outcome.story.size() > 4000 ? outcome.story.size() - 4000 : 0;
  for (size_t i = from; i < outcome.story.size(); ++i) text += outcome.story[i] + "\n";
  return text;
}

TEST(ReplicationCore, KeepsItsInvariantsUnderFaults) {
  const char* count = std::getenv("PANDO_TEST_ROUNDS");
  const std::vector<uint64_t> seeds = Seeds(count != nullptr ? std::strtoull(count, nullptr, 10) : 2000);
  SimOutcome sum;
  for (const uint64_t seed : seeds) {
    const SimOutcome outcome = RunReplication(seed, SimRules(), false);
    sum.events += outcome.events;
    sum.masterships += outcome.masterships;
    sum.acknowledged += outcome.acknowledged;
    sum.reads += outcome.reads;
    sum.faults += outcome.faults;
    sum.cas_in_doubt += outcome.cas_in_doubt;
    sum.too_wide += outcome.too_wide;
    sum.forced += outcome.forced;
    sum.handovers += outcome.handovers;
    sum.failed_handovers += outcome.failed_handovers;
    sum.held += outcome.held;
    sum.late += outcome.late;
    sum.fresh += outcome.fresh;
    sum.sessions += outcome.sessions;
    sum.stalls += outcome.stalls;
    sum.retired += outcome.retired;
    sum.failed_retires += outcome.failed_retires;
    sum.opened += outcome.opened;
    if (!outcome.violation.empty() || seeds.size() == 1) std::cout << Tell(RunReplication(seed, SimRules(), true));
    ASSERT_EQ(outcome.violation, "") << "replay: " << ReplayOfSimulation("core", seed);
  }
  std::cout << fmt::format(
      "{} seeds: {} events, {} faults, {} masterships, {} writes acknowledged, {} reads, {} CAS in doubt, {} histories "
      "too "
      "wide to judge\n",
      seeds.size(), sum.events, sum.faults, sum.masterships, sum.acknowledged, sum.reads, sum.cas_in_doubt,
      sum.too_wide);
  std::cout << fmt::format(
      "{} forced failovers, {} handovers and {} that failed, {} writes held for them, {} late requests, {} disks hung, "
      "{} looks at "
      "freshness, {} at sessions\n",
      sum.forced, sum.handovers, sum.failed_handovers, sum.held, sum.late, sum.stalls, sum.fresh, sum.sessions);
  std::cout << fmt::format("{} partitions retired, {} attempts that failed, {} halves opened\n", sum.retired,
                           sum.failed_retires, sum.opened);
  if (seeds.size() < 100) return;
  // The simulation is worth something only if things happen in it.
  EXPECT_GT(sum.masterships, 2 * seeds.size());
  EXPECT_GT(sum.acknowledged, 50 * seeds.size());
  EXPECT_GT(sum.reads, 30 * seeds.size());
  EXPECT_GT(sum.cas_in_doubt, seeds.size() / 10);
  EXPECT_GT(sum.forced, seeds.size() / 40);
  EXPECT_GT(sum.handovers, seeds.size() / 5);
  EXPECT_GT(sum.failed_handovers, seeds.size() / 20);
  EXPECT_GT(sum.late, seeds.size() / 10);
  EXPECT_GT(sum.fresh, seeds.size());
  EXPECT_GT(sum.retired, seeds.size() / 10);
  EXPECT_GT(sum.failed_retires, seeds.size() / 20);
  EXPECT_GT(sum.opened, seeds.size() / 20);
  EXPECT_LT(sum.too_wide, seeds.size() / 50);
}

TEST(ReplicationCore, IsDeterministic) {
  const SimOutcome first = RunReplication(7, SimRules(), true), second = RunReplication(7, SimRules(), true);
  EXPECT_EQ(first.story, second.story);
  EXPECT_EQ(first.events, second.events);
}

struct Mutant {
  const char* name;
  bool SimRules::*rule;
  const char* killed_by;  // the names of the violations that count
};

constexpr Mutant kMutants[] = {
    {"commit at a majority of the ISR", &Rules::commit_needs_every_member, "I3 I5"},
    {"commit without the own disk", &Rules::own_disk_counts, "I3 I5"},
    {"commit earlier epochs before the epoch's start", &Rules::commit_from_epoch_start, "RC1"},
    {"open before all is applied", &Rules::opens_when_applied, "history RC5"},
    {"acknowledge before the sync", &Rules::ack_after_sync, "I8"},
    {"acknowledge before alignment", &Rules::ack_after_alignment, "I8 RC2 I3"},
    {"count acknowledgements of older epochs", &Rules::count_own_epoch_only, "RC2"},
    {"take appends of older epochs", &Rules::fence_appends, "I1 I3 I4 I5 I8"},
    {"shrink below min_isr", &Rules::shrink_keeps_min_isr, "I10"},
    {"promote below min_isr", &Rules::promotion_keeps_min_isr, "I10"},
    {"count a shrink before its CAS", &Rules::shrink_counts_after_cas, "I2"},
    {"join without waiting for the pending set", &Rules::joiner_counts_before_cas, "I2"},
    {"join at the known commit LSN", &Rules::join_from_epoch_start, "I2 I3 I5"},
    {"take an absent op_id for a failure", &Rules::absent_op_id_proves_nothing, "I2 I3"},
    {"resume mastership after a start", &Rules::start_ends_mastership, "I1 I4"},
    {"keep promises in memory", &Rules::promises_are_durable, "I1"},
    {"keep followed epochs in memory", &Rules::followed_epoch_is_stored, "I1"},
    {"promote without promises", &Rules::promotion_needs_promises, "RC4"},
    {"promote outside the ISR", &Rules::promotes_member, "RC4 I3"},
    {"look at the clock of the turn", &Rules::lease_by_fresh_clock, "I7 history"},
    {"lease from the receive time", &Rules::lease_from_send_time, "I7 history"},
    {"acknowledge heartbeats of any epoch", &Rules::heartbeat_names_epoch, "I7 history"},
    {"promise while a grant holds", &Rules::grant_runs_out_first, "I7 history"},
    {"promise right after a start", &Rules::wait_after_start, "I7 history"},
    {"believe a death notice of another process", &Rules::notice_names_incarnation, "I7 history"},
    {"resign from later epochs too", &Rules::resign_names_epoch, "I7 history"},
    {"echo times without a lease", &Rules::freshness_needs_lease, "RC6"},
    {"hand over to one that is not level", &Rules::handover_waits_until_level, "RC5"},
    {"keep the lease during a handover", &Rules::handover_gives_up_lease, "I7 history"},
    {"go on while a handover may land", &Rules::handover_waits_for_outcome, "I7 history"},
    {"take over an epoch again after a start", &Rules::handover_target_is_new, "I1 I4"},
    {"keep the lease while a partition is retired", &Rules::retire_gives_up_lease, "RC11"},
    {"go on while a retirement may land", &Rules::retire_waits_for_outcome, "RC11"},
    {"retire with writes on their way", &Rules::retire_waits_until_level, "RC10"},
    {"retire after the split was given up", &Rules::retire_needs_split, "RC10"},
    {"lead a partition that is retired", &Rules::retired_is_final, "RC11"},
    {"serve a half that is not open", &Rules::half_waits_until_open, "SP4"},
    {"read sessions by LSN alone", &Rules::session_names_epoch, "RC7"},
    {"replay past the watermark", &Rules::apply_to_watermark_only, "I5 I6"},
    {"ignore the lineage", &Rules::lineage_is_checked, "RC9"},
    {"keep the others' UUIDs in a forced failover", &Rules::force_names_new_replicas, "RC9"},
    {"supersede ignores the epoch", &Rules::unit_is_its_epoch, "I3 I4 I5 I8"},
    {"look up applied-once at the append", &SimRules::once_is_judged_at_apply, "I11"},
    {"checkpoint at the durable LSN", &SimRules::checkpoint_is_applied, "I6"},
    {"keep UUIDs whatever the start counter says", &Rules::identity_is_judged, "I9 I3 I1"},
};

// A broken rule may show itself by other violations at some seeds, but must do so by its own.
TEST(ReplicationCore, Mutants) {
  const char* only = std::getenv("PANDO_TEST_MUTANT");
  std::cout << fmt::format("{:50} {:>6}  {}\n", "rule broken", "seed", "violated");
  for (const Mutant& mutant : kMutants) {
    if (only != nullptr && std::string(mutant.name) != only) continue;
    SimRules rules;
    rules.*mutant.rule = false;
    SimOutcome outcome;
    uint64_t killed_at = 0;
    for (const uint64_t seed : Seeds(2000)) {
      outcome = RunReplication(seed, rules, false);
      if (outcome.violation.empty()) continue;
      if (only != nullptr) std::cout << Tell(RunReplication(seed, rules, true));
      const std::string named = fmt::format(" {} ", mutant.killed_by);
      if (named.find(fmt::format(" {} ", outcome.Name())) == std::string::npos) continue;
      killed_at = seed;
      break;
    }
    std::cout << fmt::format("{:50} {:>6}  {}\n", mutant.name, killed_at == 0 ? "-" : std::to_string(killed_at),
                             outcome.violation.substr(0, outcome.violation.find('\n')));
    EXPECT_NE(killed_at, 0u) << "survives what should notice it: " << mutant.name;
  }
}

}  // namespace
}  // namespace pando::replication
