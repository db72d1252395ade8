// The command line as a whole: global options, the list of commands, and what is printed when it
// cannot be parsed.
#include <csignal>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

void DescribeCommandLine(tools::Command app, Globals* globals) {
  app.OptionsAnywhere();
  app.Version("kvadmin " PANDO_VERSION);
  app.Text("-s,--server", &globals->target.address,
           "host:port of a node, of several nodes of its cluster, separated by commas, or of a router; IPv6 as in "
           "[::1]:7420")
      .FromEnvironment("PANDO_SERVER")
      .ShowDefault();
  app.Number("--timeout-ms", &globals->target.timeout_ms, "Time budget of each request, retries included", 1, INT32_MAX)
      .ShowDefault();
  app.Flag("--json", &globals->json, "Print one JSON object per line, for programs; errors too");
  app.Footer(
      "In a cluster, --server names a router for commands that read or write records, from get to export (a node has\n"
      "only what it leads), and nodes for status, checkpoint, backup, check --online, cluster, node, failover, "
      "rebalance,\n"
      "drain, replica, partition and verify. hello and ping ask either. cluster init, node and topology need "
      "--topology,\n"
      "which most others of these take, too. plan, restore, check DIR, accept-loss and wal-dump ask nobody.\n\n"
      "Exit codes: 0 done; 1 there is no such record, a condition did not hold, or the node is not ok; 2 wrong usage\n"
      "or input; 3 the server or the local system failed; 4 damage found; 5 a node has the directory open; 6 load\n"
      "rejected records. After code 3 a write may have taken effect; if that is unknown, the error says so.\n"
      "An interrupted command cleans up, says what it did and ends by that signal (a shell shows 130 for Ctrl-C).\n"
      "A command ends by SIGPIPE (141) when the reader of its output has gone.\n\n"
      "kvadmin COMMAND --help shows the options of a command, and examples.");
  AddGetCommand(app, globals);
  AddPutCommand(app, globals);
  AddDeleteCommand(app, globals);
  AddDeleteRangeCommand(app, globals);
  AddIncrementCommand(app, globals);
  AddTouchCommand(app, globals);
  AddScanCommand(app, globals);
  AddCountCommand(app, globals);
  AddAggregateCommand(app, globals);
  AddDiffCommand(app, globals);
  AddSplitCommand(app, globals);
  AddSnapshotCommand(app, globals);
  AddWatchCommand(app, globals);
  AddLoadCommand(app, globals);
  AddExportCommand(app, globals);
  AddReportCommand(app, globals);
  AddStatusCommand(app, globals);
  AddCheckpointCommand(app, globals);
  AddHelloCommand(app, globals);
  AddPingCommand(app, globals);
  AddBackupCommand(app, globals);
  AddRestoreCommand(app, globals);
  AddCheckCommand(app, globals);
  AddAcceptLossCommand(app, globals);
  AddWalDumpCommand(app, globals);
  AddPlanCommand(app, globals);
  AddClusterCommand(app, globals);
  AddNodeCommand(app, globals);
  AddFailoverCommand(app, globals);
  AddRebalanceCommand(app, globals);
  AddDrainCommand(app, globals);
  AddReplicaCommand(app, globals);
  AddPartitionCommand(app, globals);
  AddVerifyCommand(app, globals);
  AddTopologyCommand(app, globals);
}

namespace {

// The error may come before --json was read, so look for it here.
bool AsksForJson(int argc, const char* const* argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    if (std::string_view(argv[i]) == "--json") return true;
  }
  return false;
}

}  // namespace

void RunCommandLine(int argc, const char* const* argv, Globals* globals) {
  tools::CommandLine line("kvadmin", "kvadmin: operate and inspect a Pando store\n");
  DescribeCommandLine(line.root(), globals);
  const tools::CommandLine::Parsed parsed = line.Run(argc, argv);
  if (parsed.outcome == tools::CommandLine::Outcome::kRan) return;
  if (parsed.outcome == tools::CommandLine::Outcome::kHelp) {
    tools::WriteOutput(parsed.text);
    if (Status flushed = tools::FlushOutput(); !flushed.ok()) {
      globals->exit_code = kExitFailed;
      if (tools::OutputReaderGone()) globals->end_signal = SIGPIPE;
      if (!tools::OutputReaderGone()) ReportError(*globals, flushed);
    }
    return;
  }
  globals->exit_code = kExitUsage;
  globals->json = AsksForJson(argc, argv);
  if (globals->json) {
    ReportError(*globals, Status(Code::kInvalidArgument, parsed.problem));
  } else {
    tools::WriteNote(parsed.text);
  }
}

}  // namespace pando::admin
