// The subcommands of kvbench, one file each. Each adds itself to the command line with its Add
// function. What the chosen one runs sets the exit code.
//
// Threads: one.
#pragma once

#include <string>

#include "tools/common/command_line.h"
#include "tools/common/output.h"
#include "tools/kvbench/runner.h"

namespace pando::bench {

enum ExitCode : int { kExitOk = 0, kExitUsage = 2, kExitFailed = 3 };

void AddRunCommand(tools::Command app, int* exit_code);
void AddCompareCommand(tools::Command app, int* exit_code);
void AddEngineCommand(tools::Command app, int* exit_code);
void AddPoliciesCommand(tools::Command app, int* exit_code);
void AddReplicationCommand(tools::Command app, int* exit_code);
void AddFailoverCommand(tools::Command app, int* exit_code);
void AddRouterCommand(tools::Command app, int* exit_code);

// The settings that the run and compare commands share.
struct CommonSettings {
  RunSettings run;
  ServerOptions server;
  std::string json_path;
  int generator_core = -1;  // -1: the last core, if there are at least two
  bool pin = true;
};

void AddDataOptions(tools::Command command, CommonSettings* settings);
void AddDistributionOption(tools::Command command, Distribution* distribution, const std::string& help);
void AddServerOptions(tools::Command command, CommonSettings* settings);
// The programs of which kvbench replication and kvbench failover start clusters, and where.
void AddClusterOptions(tools::Command command, ServerOptions* server);
// Fills in the settings that depend on other options, and pins the calling thread to the
// generator's core.
Status Prepare(CommonSettings* settings);
// Prints `status` if it is an error, and returns the exit code for it.
int Report(const Status& status);

}  // namespace pando::bench
