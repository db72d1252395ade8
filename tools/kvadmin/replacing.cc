#include "tools/kvadmin/replacing.h"

#include "src/topology/topology.h"
#include "src/topology/topology_spec.h"
#include "tools/kvadmin/offline.h"

namespace pando::admin {

namespace {

std::string_view NameOf(Replacing replacing) {
  switch (replacing) {
    case Replacing::kOn: return "on";
    case Replacing::kOff: return "off";
    case Replacing::kAsStarted: return "as the nodes were started";
  }
  return "?";
}

struct Change {
  Replacing before = Replacing::kAsStarted;
  NodeId holder = 0;
};

// The holder goes on, and learns it with its next look at the topology.
Task<Result<Change>> ChangeOnce(Topology* topology, Replacing replacing, bool dry_run, Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(const TopologyEntry cluster, co_await topology->Read(std::string(kClusterKey), timeout_ns));
  if (cluster.revision == 0) {
    co_return Error(Code::kNotFound, "the topology holds no cluster; kvadmin cluster init creates one");
  }
  CO_ASSIGN_OR_RETURN(const TopologyEntry entry, co_await topology->Read(std::string(kControllerKey), timeout_ns));
  ControllerRecord record;
  if (entry.revision != 0) {
    CO_ASSIGN_OR_RETURN(record, DecodeController(entry));
  }
  const Change change{record.replacing, record.holder};
  if (record.replacing == replacing || dry_run) co_return change;
  record.replacing = replacing;
  record.op_id = NewOpId(topology->reactor());
  const std::string op_id = record.op_id;
  CO_ASSIGN_OR_RETURN(std::string value, Encode(record));
  CO_ASSIGN_OR_RETURN(const std::optional<Revision> written,
                      co_await SwapUntilKnown(*topology, std::string(kControllerKey), entry.revision, std::move(value),
                                              op_id, timeout_ns));
  if (!written) co_return Error(Code::kAborted, "the key was changed meanwhile");
  co_return change;
}

Task<Result<ExitCode>> Run(Reactor* reactor, TopologySpec spec, Replacing replacing, bool dry_run, Nanos timeout_ns,
                           Change* change) {
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TopologyStore> store, co_await OpenTopologyStore(*reactor, std::move(spec)));
  Topology topology(*reactor, std::move(store));
  Result<Change> changed = Error(Code::kAborted, "");
  // Its holder writes it every few seconds.
  for (int i = 0; i < 10 && changed.code() == Code::kAborted; ++i) {
    changed = co_await ChangeOnce(&topology, replacing, dry_run, timeout_ns);
  }
  const Status closed = co_await topology.Close();
  CO_RETURN_IF_ERROR(changed.status());
  CO_RETURN_IF_ERROR(closed);
  *change = *changed;
  co_return kExitOk;
}

}  // namespace

Result<ExitCode> SetReplacing(const Globals& globals, const std::string& place, Replacing replacing, bool dry_run) {
  if (place.empty()) {
    return Error(Code::kInvalidArgument,
                 "--replace is written to the topology itself: say where it is, with --topology");
  }
  ASSIGN_OR_RETURN(TopologySpec spec, ParseTopologySpec(place));
  const Nanos timeout_ns = globals.target.timeout_ms * kMillisecond;
  Change change;
  RETURN_IF_ERROR(RunOffline([&](Reactor& reactor) {
                    return Run(&reactor, spec, replacing, dry_run, timeout_ns, &change);
                  }).TakeStatus());
  if (globals.json) {
    PrintJson(Json{{"replace", NameOf(replacing)},
                   {"before", NameOf(change.before)},
                   {"changed", !dry_run && change.before != replacing}});
  } else if (dry_run) {
    tools::Print("replacement of nodes that stay away: it is {}, and would be {}; nothing was changed\n",
                 NameOf(change.before), NameOf(replacing));
  } else {
    tools::Print("replacement of nodes that stay away: {} (it was {})\n", NameOf(replacing), NameOf(change.before));
  }
  return kExitOk;
}

}  // namespace pando::admin
