// kvbench policies: simulates eviction policies and prints their hit rates.
#include <fmt/format.h>

#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/policies.h"

namespace pando::bench {

void AddPoliciesCommand(tools::Command app, int* exit_code) {
  struct Options {
    TraceOptions trace;
    std::vector<uint64_t> shares = {8, 20, 2};
  };
  auto o = std::make_shared<Options>();
  tools::Command command =
      app.Add("policies", "Simulate eviction policies on synthetic traces, and print their hit rates");
  command.Number("--pages", &o->trace.pages, "Number of pages of data", 100, 100'000'000).ShowDefault();
  command.Number("--uses", &o->trace.uses, "Page uses in each trace; the first half is not counted", 1).ShowDefault();
  command.Numbers("--data_per_memory", &o->shares, "Ratios of data to memory, as in 8,20", 1, 1000).ShowDefault();
  command.Number("--seed", &o->trace.seed, "Random seed of the traces").ShowDefault();
  command.OnChosen([o, exit_code] {
    tools::Print("| trace | data / memory |");
    for (const std::string& policy : PolicyNames()) tools::Print(" {} |", policy);
    tools::Print(" best possible |\n|---|---|");
    for (size_t i = 0; i <= PolicyNames().size(); ++i) tools::Print("---|");
    tools::Print("\n");
    for (const std::string& name : TraceNames()) {
      const std::vector<uint64_t> trace = MakeTrace(name, o->trace);
      for (uint64_t share : o->shares) {
        const size_t frames = o->trace.pages / share;
        tools::Print("| {} | {} |", name, share);
        for (const std::string& policy : PolicyNames()) {
          tools::Print(" {:.1f} % |", 100 * HitRate(MakePolicy(policy, frames).get(), trace));
        }
        tools::Print(" {:.1f} % |\n", 100 * BestHitRate(trace, frames));
      }
    }
    *exit_code = 0;
  });
}

}  // namespace pando::bench
