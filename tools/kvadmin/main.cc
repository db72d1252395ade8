// kvadmin: operate and inspect a Pando store.
#include <csignal>
#include <string>

#include <thrift/TOutput.h>  // needs <string> before it

#include "src/base/check.h"
#include "tools/kvadmin/commands/commands.h"

int main(int argc, char** argv) {
  using namespace pando::admin;  // NOLINT(google-build-using-namespace): all of it is called here
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_ERROR;
  google::InitGoogleLogging(argv[0]);
  std::signal(SIGPIPE, SIG_IGN);
  apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});  // every error reaches the user as a Status

  Globals globals;
  CLI::App app("kvadmin: operate and inspect a Pando store\n", "kvadmin");
  app.require_subcommand(1);
  app.fallthrough();  // global options may stand behind the command too
  app.add_option("-s,--server", globals.target.address, "host:port of the node")
      ->envname("PANDO_SERVER")
      ->capture_default_str();
  app.add_option(Spell("--timeout-ms"), globals.target.timeout_ms, "Budget of each request, retries included")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", globals.json, "Output for programs: one JSON object per line");
  app.footer(
      "Exit codes: 0 done; 1 no such record, or a condition did not hold, or the node is not ok; 2 usage or input;\n"
      "3 the server or the system failed; 4 damage found; 5 a node has the directory open; 6 load rejected records.\n\n"
      "kvadmin COMMAND --help shows options and examples.");
  AddGetCommand(app, &globals);
  AddPutCommand(app, &globals);
  AddDeleteCommand(app, &globals);
  AddIncrementCommand(app, &globals);
  AddScanCommand(app, &globals);
  AddCountCommand(app, &globals);
  AddAggregateCommand(app, &globals);
  AddDiffCommand(app, &globals);
  AddSplitCommand(app, &globals);
  AddSnapshotCommand(app, &globals);
  AddLoadCommand(app, &globals);
  AddExportCommand(app, &globals);
  AddStatusCommand(app, &globals);
  AddCheckpointCommand(app, &globals);
  AddHelloCommand(app, &globals);
  AddPingCommand(app, &globals);
  AddBackupCommand(app, &globals);
  AddRestoreCommand(app, &globals);
  AddCheckCommand(app, &globals);
  AddWalDumpCommand(app, &globals);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return globals.exit_code;
}
