// kvadmin plan: how many nodes and partitions a cluster needs for its data and its load. It asks nobody.
//
// Threads: one.
#include <memory>

#include "src/base/counted.h"
#include "tools/common/table.h"
#include "tools/kvadmin/capacity.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

std::string_view UnitName(CapacityUnit unit) {
  switch (unit) {
    case CapacityUnit::kCount: return "count";
    case CapacityUnit::kBytes: return "bytes";
    case CapacityUnit::kBytesPerSecond: return "bytes_per_second";
    case CapacityUnit::kSeconds: return "seconds";
    case CapacityUnit::kRatio: return "ratio";
  }
  return "?";
}

std::string ValueText(const CapacityRow& row) {
  switch (row.unit) {
    case CapacityUnit::kBytes: return tools::HumanBytes(row.value);
    case CapacityUnit::kBytesPerSecond: return tools::HumanBytes(row.value) + "/s";
    case CapacityUnit::kSeconds:
      return row.value < 60 ? fmt::format("{:.1f}s", row.value) : tools::HumanSeconds(row.value);
    case CapacityUnit::kRatio: return fmt::format("{:.2f}", row.value);
    case CapacityUnit::kCount: break;
  }
  return fmt::format("{:.0f}", row.value);
}

void PrintPlan(const CapacityPlan& plan) {
  tools::Print("{}, {}\n", Counted(plan.nodes, "node"), Counted(plan.partitions, "partition"));
  if (!plan.bound_by.empty()) tools::Print("  with fewer nodes, {}\n", plan.bound_by);
  tools::Print("\n");
  tools::Table table({"FIGURE", "VALUE", "FORMULA", "NUMBERS"}, /*align_numbers=*/false);
  for (const CapacityRow& row : plan.rows) table.Row({row.name, ValueText(row), row.formula, row.numbers});
  tools::Print("{}", table.Render());
  for (const std::string& note : plan.notes) tools::Print("\nnote: {}\n", note);
}

Json PlanJson(const CapacityPlan& plan) {
  Json json;
  json["nodes"] = plan.nodes;
  json["partitions"] = plan.partitions;
  json["bound_by"] = plan.bound_by;
  json["figures"] = Json::array();
  for (const CapacityRow& row : plan.rows) {
    json["figures"].push_back(Json{{"name", row.name},
                                   {"unit", UnitName(row.unit)},
                                   {"value", row.value},
                                   {"formula", row.formula},
                                   {"numbers", row.numbers}});
  }
  json["notes"] = plan.notes;
  return json;
}

}  // namespace

void AddPlanCommand(tools::Command app, Globals* globals) {
  auto in = std::make_shared<CapacityInputs>();
  tools::Command command = app.Add(
      "plan", "Capacity: compute the nodes, partitions, disk, memory and network for data and load; asks nobody");
  command.Quantity("--records", &in->records, "Number of records").Required();
  command.Quantity("--key-bytes", &in->key_bytes, "Length of a key, in bytes").ShowDefault();
  command.Quantity("--value-bytes", &in->value_bytes, "Length of a value, in bytes").Required();
  command
      .Quantity("--compression-ratio", &in->compression_ratio,
                "Bytes of keys and values before compression, divided by those after it; at least 1")
      .ShowDefault();
  command.Quantity("--reads", &in->reads_per_s, "Gets a second, at peak").ShowDefault();
  command.Quantity("--writes", &in->writes_per_s, "Puts a second, at peak").ShowDefault();
  command.Number("--replicas", &in->replicas, "Replicas of each partition").ShowDefault();
  command.Number("--zones", &in->zones, "Zones, with as many nodes in each; 0: each node is its own").ShowDefault();
  command.Number("--nodes", &in->nodes, "Plan for so many nodes; 0: the fewest that suffice").ShowDefault();
  command.Number("--partitions", &in->partitions, "Plan for so many partitions; 0: as many as suit").ShowDefault();
  command.Quantity("--node-disk", &in->node_disk_bytes, "Disk of a node, in bytes").Required();
  command.Quantity("--node-memory", &in->node_memory_bytes, "Memory of a node, in bytes").Required();
  command.Quantity("--node-disk-bytes-per-s", &in->node_disk_bytes_per_s, "What its disk reads and writes in a second")
      .ShowDefault();
  command
      .Quantity("--node-network-bytes-per-s", &in->node_network_bytes_per_s,
                "What its network moves in a second, in each direction")
      .ShowDefault();
  command
      .Quantity("--install-bytes-per-s", &in->install_bytes_per_s,
                "What a node copies in a second when it gets new replicas (kvnode --install_mb_per_s)")
      .ShowDefault();
  command.Quantity("--log-budget", &in->log_budget_bytes, "Log of a node, in bytes (kvnode --log_budget_mb)")
      .ShowDefault();
  command.Number("--reactors", &in->reactors, "Reactors of a node", 1, 256).ShowDefault();
  command.Footer(
      "Sizes may end in K, M, G, T or P (powers of 1000), or in Ki, Mi, Gi, Ti or Pi (powers of 1024).\n"
      "The plan leaves room for the loss of one node. docs/CAPACITY.md explains the formulas.\n\n"
      "Examples:\n"
      "  kvadmin plan --records 100e9 --value-bytes 1000 --reads 100000 --writes 10000 --node-disk 4T --node-memory "
      "64G\n"
      "  kvadmin --json plan --records 1e9 --value-bytes 200 --nodes 6 --zones 3 --node-disk 2T --node-memory 64Gi\n"
      "Exit codes: 0 here is a plan; 2 the options are impossible, or contradict each other.");
  OnChosen(command, globals, [=]() -> Result<ExitCode> {
    ASSIGN_OR_RETURN(const CapacityPlan plan, PlanCapacity(*in));
    if (globals->json) {
      PrintJson(PlanJson(plan));
    } else {
      PrintPlan(plan);
    }
    return kExitOk;
  });
}

}  // namespace pando::admin
