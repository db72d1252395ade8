// kvadmin partition: splits partitions while they serve.
//
// Threads: one.
#include <memory>

#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/split_run.h"

namespace pando::admin {

void AddPartitionCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<SplitOptions>();
  tools::Command partition = app.Add("partition", "Split partitions of a cluster, so that it can grow");
  partition.NeedsCommand();
  partition.Footer("Example:\n  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 partition split 3");
  tools::Command command = partition.Add("split", "Split partitions into two halves each, while they serve");
  command.Texts("partition", &o->partitions, "Their numbers");
  auto all = command.Flag("--all", &o->all, "Instead: each of those with the widest ranges, so all of a new cluster");
  command
      .Number("--to", &o->to, "With --all: only as many as it takes until so many partitions serve", 2, kMaxPartitions)
      .Needs(all);
  auto gives_up = command.Flag("--abort", &o->abort, "Give up splits that have not ended, and what was copied");
  auto rate = command.Number(
      "--mb-per-s", &o->mb_per_s,
      "Copy at most so much in a second, of each partition; 0 is without a limit. A split that runs takes it too", 0,
      1 << 20);
  rate.ShowDefault().Excludes(gives_up);
  command.Flag("--no-wait", &o->no_wait, "Only begin: the nodes go on by themselves, one after the other on each")
      .Excludes(gives_up);
  command
      .Number("--timeout-s", &o->timeout_s, "Give up when nothing has moved on for so long; what has begun goes on", 1,
              30LL * 24 * 3600)
      .ShowDefault();
  command
      .Text("--topology", &o->place,
            "Where the map is: file:DIR or etcd://HOST:PORT,.../NAME (default: what a node at --server knows of it)")
      .NotEmpty();
  command.Flag("--dry-run", &o->dry_run, "Print what would be done, and change nothing");
  command.Footer(
      "The node of a partition's master copies its records into two new partitions, the halves, on the same nodes.\n"
      "When they have everything, they take its place: clients see a pause as in a handover, and no error. Until then\n"
      "it can be given up. A split cannot be taken back. Each node needs room for the data twice, until the old\n"
      "partition is dropped.\n\n"
      "With --all or several numbers, each node that leads splits one after the other. The command may be ended at\n"
      "any time: what has begun goes on, and the same command waits for it. kvadmin cluster status shows the splits\n"
      "that run.\n\n"
      "Examples:\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 partition split 3 --mb-per-s 50\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 partition split --all --to 32\n"
      "  kvadmin --server 10.0.0.1:7420,10.0.0.2:7420 partition split 3 --abort\n"
      "Exit codes: 0 done, or there is nothing to do; 2 there is no such partition, or it cannot be split; 3 it was\n"
      "refused, failed, or did not move on.");
  OnChosen(command, globals, [=] {
    o->has_rate = rate.given();
    return RunSplit(*globals, *o);
  });
}

}  // namespace pando::admin
