// kvbench: measures Pando and its peers under the same load, over the wire and as embedded engines.
// docs/BENCHMARKS.md explains how to use it.
#include <sstream>

#include "src/base/check.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/server.h"

int main(int argc, char** argv) {
  pando::tools::PrepareStandardStreams();
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  pando::bench::CleanUpOnSignals();
  CLI::App app("kvbench: load generator for Pando and its peers\n", "kvbench");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 measured; 2 wrong usage; 3 a server failed, refused requests or gave a wrong answer.\n"
      "kvbench COMMAND --help describes a command. Without a command, kvbench runs compare.");
  int exit_code = pando::bench::kExitOk;
  pando::bench::AddRunCommand(app, &exit_code);
  pando::bench::AddCompareCommand(app, &exit_code);
  pando::bench::AddEngineCommand(app, &exit_code);
  pando::bench::AddPoliciesCommand(app, &exit_code);
  char* default_command[] = {argv[0], const_cast<char*>("compare"), nullptr};
  try {
    argc > 1 ? app.parse(argc, argv) : app.parse(2, default_command);
  } catch (const CLI::ParseError& error) {
    std::ostringstream help, complaint;  // CLI11 itself would ignore a failed write
    exit_code = app.exit(error, help, complaint) == 0 ? pando::bench::kExitOk : pando::bench::kExitUsage;
    pando::tools::WriteOutput(help.str());
    pando::tools::WriteNote(complaint.str());
  }
  if (pando::Status flushed = pando::tools::FlushOutput(); !flushed.ok() && exit_code == pando::bench::kExitOk) {
    pando::tools::PrintNote("kvbench: {}\n", flushed.message());
    exit_code = pando::bench::kExitFailed;
  }
  return exit_code;
}
