// The subcommands of kvbench, one file each. Each adds itself to the command line; when it is the one asked for, its
// callback runs and sets the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "tools/common/number_option.h"
#include "tools/common/output.h"
#include "tools/kvbench/runner.h"

namespace pando::bench {

enum ExitCode : int { kExitOk = 0, kExitUsage = 2, kExitFailed = 3 };

void AddRunCommand(CLI::App& app, int* exit_code);
void AddCompareCommand(CLI::App& app, int* exit_code);
void AddEngineCommand(CLI::App& app, int* exit_code);
void AddPoliciesCommand(CLI::App& app, int* exit_code);

// What the commands have in common.
struct CommonSettings {
  RunSettings run;
  ServerOptions server;
  std::string json_path;
  int generator_core = -1;  // -1: the last core, when there are at least two
  bool pin = true;
};

void AddDataOptions(CLI::App* command, CommonSettings* settings);
void AddServerOptions(CLI::App* command, CommonSettings* settings);
// Fills what depends on other options, and pins the calling thread.
Status Prepare(CommonSettings* settings);
// Prints the error and returns the exit code for it.
int Report(const Status& status);

}  // namespace pando::bench
