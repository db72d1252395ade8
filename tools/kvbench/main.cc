// kvbench: measures Pando and its peers under the same load, over the wire and as embedded engines.
// docs/BENCHMARKS.md explains how to use it.
#include <string>

#include <thrift/TOutput.h>  // needs <string> before it

#include "src/base/check.h"
#include "tools/kvbench/commands/commands.h"
#include "tools/kvbench/process.h"

int main(int argc, char** argv) {
  pando::tools::PrepareStandardStreams();
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  pando::bench::CleanUpOnSignals();
  // Thrift's own lines about connections that failed would mix with ours.
  apache::thrift::GlobalOutput.setOutputFunction([](const char*) {});
  pando::tools::CommandLine line("kvbench", "kvbench: load generator for Pando and its peers\n");
  line.root().Footer(
      "Exit codes: 0 measured; 2 wrong usage; 3 a server failed, refused requests or gave a wrong answer.\n"
      "kvbench COMMAND --help describes a command. Without a command, kvbench runs compare.");
  int exit_code = pando::bench::kExitOk;
  pando::bench::AddRunCommand(line.root(), &exit_code);
  pando::bench::AddCompareCommand(line.root(), &exit_code);
  pando::bench::AddEngineCommand(line.root(), &exit_code);
  pando::bench::AddReplicationCommand(line.root(), &exit_code);
  pando::bench::AddFailoverCommand(line.root(), &exit_code);
  pando::bench::AddRouterCommand(line.root(), &exit_code);
  pando::bench::AddPoliciesCommand(line.root(), &exit_code);
  const char* default_command[] = {argv[0], "compare", nullptr};
  using Outcome = pando::tools::CommandLine::Outcome;
  const auto parsed = argc > 1 ? line.Run(argc, argv) : line.Run(2, default_command);
  if (parsed.outcome == Outcome::kHelp) pando::tools::WriteOutput(parsed.text);
  if (parsed.outcome == Outcome::kWrong) {
    exit_code = pando::bench::kExitUsage;
    pando::tools::WriteNote(parsed.text);
  }
  if (pando::Status flushed = pando::tools::FlushOutput(); !flushed.ok() && exit_code == pando::bench::kExitOk) {
    pando::tools::PrintNote("kvbench: {}\n", flushed.message());
    exit_code = pando::bench::kExitFailed;
  }
  return exit_code;
}
