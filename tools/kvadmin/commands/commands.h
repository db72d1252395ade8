// The subcommands of kvadmin, one file each. Each adds itself to the command line with its Add
// function, and gives OnChosen what to do when it is the chosen one.
//
// Conventions: The result goes to standard output (text, or JSON with --json). Notes, progress and
// errors go to standard error; with --json, errors are JSON too, and there is no progress. The exit
// code is one of exit_codes.h. All output goes through tools/common/output.h.
//
// Threads: one.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "src/base/result.h"
#include "tools/common/command_line.h"
#include "tools/common/output.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/exit_codes.h"
#include "tools/kvadmin/range.h"

namespace pando::admin {

using Json = nlohmann::ordered_json;

struct Globals {
  Target target;
  bool json = false;
  int exit_code = kExitOk;
  int end_signal = 0;  // if not 0, the process ends by this signal: an interrupt or SIGPIPE
};

// Adds the global options and every command to `app`.
void DescribeCommandLine(tools::Command app, Globals* globals);
// Parses the command line, runs the command and reports errors. Afterwards, `globals` says how the
// process should end.
void RunCommandLine(int argc, const char* const* argv, Globals* globals);

void AddGetCommand(tools::Command app, Globals* globals);
void AddPutCommand(tools::Command app, Globals* globals);
void AddDeleteCommand(tools::Command app, Globals* globals);
void AddDeleteRangeCommand(tools::Command app, Globals* globals);
void AddTouchCommand(tools::Command app, Globals* globals);
void AddWatchCommand(tools::Command app, Globals* globals);
void AddIncrementCommand(tools::Command app, Globals* globals);
void AddScanCommand(tools::Command app, Globals* globals);
void AddCountCommand(tools::Command app, Globals* globals);
void AddAggregateCommand(tools::Command app, Globals* globals);
void AddDiffCommand(tools::Command app, Globals* globals);
void AddSplitCommand(tools::Command app, Globals* globals);
void AddSnapshotCommand(tools::Command app, Globals* globals);
void AddLoadCommand(tools::Command app, Globals* globals);
void AddExportCommand(tools::Command app, Globals* globals);
void AddReportCommand(tools::Command app, Globals* globals);
void AddStatusCommand(tools::Command app, Globals* globals);
void AddCheckpointCommand(tools::Command app, Globals* globals);
void AddBackupCommand(tools::Command app, Globals* globals);
void AddRestoreCommand(tools::Command app, Globals* globals);
void AddAcceptLossCommand(tools::Command app, Globals* globals);
void AddCheckCommand(tools::Command app, Globals* globals);
void AddWalDumpCommand(tools::Command app, Globals* globals);
void AddTopologyCommand(tools::Command app, Globals* globals);
void AddClusterCommand(tools::Command app, Globals* globals);
void AddClusterStatusCommand(tools::Command cluster, Globals* globals);
void AddSetMinIsrCommand(tools::Command cluster, Globals* globals);
void AddFailoverCommand(tools::Command app, Globals* globals);
void AddRebalanceCommand(tools::Command app, Globals* globals);
void AddDrainCommand(tools::Command app, Globals* globals);
void AddNodeCommand(tools::Command app, Globals* globals);
void AddPartitionCommand(tools::Command app, Globals* globals);
void AddReplicaCommand(tools::Command app, Globals* globals);
void AddVerifyCommand(tools::Command app, Globals* globals);
void AddPlanCommand(tools::Command app, Globals* globals);
void AddHelloCommand(tools::Command app, Globals* globals);
void AddPingCommand(tools::Command app, Globals* globals);

// If `command` is chosen: runs `body`, checks that its output arrived, prints its error, and sets
// the exit code.
void OnChosen(tools::Command command, Globals* globals, std::function<Result<ExitCode>()> body);

// The result of a command that reads or changes several partitions, and so needs a node that leads all of them: if it
// was refused for that reason, the error says what to do.
Result<ExitCode> OfManyPartitions(Result<ExitCode> result);

// --if-version, --if-value, --if-exists, --if-absent.
struct ConditionOptions {
  std::string version, value;
  bool exists = false, absent = false;
  tools::Option version_option;
  tools::Option value_option;
};
void AddConditionOptions(tools::Command command, ConditionOptions* options);
// Returns nothing if no condition was given.
Result<std::optional<api::Condition>> BuildCondition(const ConditionOptions& options, Encoding encoding);

// Versions have 64 bits. As JSON numbers, they would lose digits in JavaScript and jq.
inline std::string VersionText(int64_t version) { return std::to_string(static_cast<uint64_t>(version)); }
Json RecordJson(std::string_view key, const api::Record& record);
std::string TimeText(int64_t unix_ms);  // "2025-01-31 12:00:00.000Z", or "never" for 0

// Formats as one line. Bytes that are not UTF-8 (in a path or a server's message) are replaced.
std::string JsonText(const Json& json);
void PrintJson(const Json& json);
// Ends a command that printed rows. `what` is their name ("rows"). A cursor that is not empty means
// that there are more rows, because of the limit or because `status` is an error. It is then
// printed, as {"more": {"rows", "cursor"}} or as a sentence.
Result<ExitCode> EndOfRows(const Globals& globals, uint64_t rows, std::string_view what, const std::string& cursor,
                           Status status);
void ReportError(const Globals& globals, const Status& status);

// Prints the outcome of a conditional write and returns kExitOk or kExitNo.
ExitCode ReportWrite(const Globals& globals, std::string_view key, Encoding encoding, const api::WriteResult& result,
                     std::string_view done);

}  // namespace pando::admin
