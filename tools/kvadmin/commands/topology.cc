// kvadmin topology: looks at the place where a cluster keeps its map, and makes it anew.
//
// Threads: one.
#include <memory>

#include "src/topology/cluster_map.h"
#include "src/topology/topology.h"
#include "src/topology/topology_spec.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/commands/topology_recover.h"
#include "tools/kvadmin/offline.h"

namespace pando::admin {

namespace {

struct TopologyOptions {
  std::string place;
};

void PrintEntry(const Globals& globals, const TopologyEntry& entry) {
  if (!globals.json)
    return tools::Print("{} {} {}\n", entry.key, entry.revision, Printable(entry.value, Encoding::kText));
  Json line;
  line["key"] = entry.key;
  line["revision"] = entry.revision;
  SetBytes(&line, "value", entry.value);
  PrintJson(line);
}

Task<Result<ExitCode>> Dump(Reactor* reactor, const Globals* globals, TopologySpec spec) {
  Result<std::unique_ptr<TopologyStore>> store = co_await OpenTopologyStore(*reactor, std::move(spec));
  if (!store.ok()) co_return store.TakeStatus();
  Topology topology(*reactor, *std::move(store));
  Result<TopologyListing> listing = co_await topology.List(globals->target.timeout_ms * kMillisecond);
  Status closed = co_await topology.Close();
  if (!listing.ok()) co_return listing.TakeStatus();
  CO_RETURN_IF_ERROR(closed);
  ClusterMap map;
  Status damage;  // the first
  for (const TopologyEntry& entry : listing->entries) {
    PrintEntry(*globals, entry);
    if (Status applied = map.Apply(entry); !applied.ok() && damage.ok()) damage = std::move(applied);
  }
  CO_RETURN_IF_ERROR(damage);
  for (const std::string& problem : map.Problems()) {
    tools::PrintNote("{}\n", globals->json ? JsonText(Json{{"note", problem}}) : "note: " + problem);
  }
  co_return kExitOk;
}

Result<ExitCode> RunDump(const Globals* globals, const TopologyOptions& options) {
  ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(options.place));
  return RunOffline([=](Reactor& reactor) { return Dump(&reactor, globals, spec); });
}

}  // namespace

void AddTopologyCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<TopologyOptions>();
  tools::Command command = app.Add("topology", "Look at the map of a cluster, or make it anew when it is lost");
  command.NeedsCommand();
  command.Footer("Example:\n  kvadmin topology dump file:/var/lib/pando/topology");
  tools::Command dump = command.Add("dump", "Print every key of a topology, with its revision and its value");
  dump.Text("place", &o->place, "Where it is: file:DIR or etcd://HOST:PORT,.../NAME, as in --topology of a node")
      .Required()
      .NotEmpty();
  dump.Footer(
      "Notes on standard error say what the values do not explain, such as hashes that no partition has. dump changes\n"
      "nothing.\n\n"
      "Examples:\n"
      "  kvadmin topology dump file:/var/lib/pando/topology\n"
      "  kvadmin --json topology dump etcd://10.0.0.1:2379/production | jq -r .key\n"
      "Exit codes: 0 read; 3 the topology cannot be read, or a newer version has written it; 4 a value is damaged.");
  OnChosen(dump, globals, [=] { return RunDump(globals, *o); });
  AddTopologyRecoverCommand(command, globals);
}

}  // namespace pando::admin
