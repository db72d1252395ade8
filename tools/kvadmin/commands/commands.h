// The subcommands of kvadmin, one file each. Each adds itself to the command line; the chosen one's callback runs it.
//
// Conventions: what was asked for goes to standard output (a table, or JSON with --json); progress and errors go to
// standard error, and with --json they are JSON, too; the exit code is one of exit_codes.h. All output goes through
// tools/common/output.h, all numeric options through tools/common/number_option.h.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "src/base/result.h"
#include "tools/common/number_option.h"
#include "tools/common/output.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/exit_codes.h"

namespace pando::admin {

using Json = nlohmann::ordered_json;

struct Globals {
  Target target;
  bool json = false;
  int exit_code = kExitOk;
  int end_signal = 0;  // not 0: the process ends by this signal instead, because it was interrupted, or nobody reads
};

// The whole command line: global options and every command.
void DescribeCommandLine(CLI::App& app, Globals* globals);
// Parses and runs it, and reports what is wrong with it. Afterwards `globals` says how the process should end.
void RunCommandLine(int argc, const char* const* argv, Globals* globals);

void AddGetCommand(CLI::App& app, Globals* globals);
void AddPutCommand(CLI::App& app, Globals* globals);
void AddDeleteCommand(CLI::App& app, Globals* globals);
void AddDeleteRangeCommand(CLI::App& app, Globals* globals);
void AddTouchCommand(CLI::App& app, Globals* globals);
void AddWatchCommand(CLI::App& app, Globals* globals);
void AddIncrementCommand(CLI::App& app, Globals* globals);
void AddScanCommand(CLI::App& app, Globals* globals);
void AddCountCommand(CLI::App& app, Globals* globals);
void AddAggregateCommand(CLI::App& app, Globals* globals);
void AddDiffCommand(CLI::App& app, Globals* globals);
void AddSplitCommand(CLI::App& app, Globals* globals);
void AddSnapshotCommand(CLI::App& app, Globals* globals);
void AddLoadCommand(CLI::App& app, Globals* globals);
void AddExportCommand(CLI::App& app, Globals* globals);
void AddStatusCommand(CLI::App& app, Globals* globals);
void AddCheckpointCommand(CLI::App& app, Globals* globals);
void AddBackupCommand(CLI::App& app, Globals* globals);
void AddRestoreCommand(CLI::App& app, Globals* globals);
void AddCheckCommand(CLI::App& app, Globals* globals);
void AddWalDumpCommand(CLI::App& app, Globals* globals);
void AddHelloCommand(CLI::App& app, Globals* globals);
void AddPingCommand(CLI::App& app, Globals* globals);

// Runs `body` when `command` was chosen, makes sure that its output arrived, prints its error and sets the exit code.
void OnChosen(CLI::App* command, Globals* globals, std::function<Result<ExitCode>()> body);

// "--keys-only" -> "--keys-only,--keys_only": both spellings work everywhere.
std::string Spell(const std::string& dashed);

// --hex and --base64: how keys and values are typed and shown.
void AddEncodingOptions(CLI::App* command, Encoding* encoding);

// --if-version, --if-value, --if-exists, --if-absent.
struct ConditionOptions {
  std::string version, value;
  bool exists = false, absent = false;
  CLI::Option* version_option = nullptr;
  CLI::Option* value_option = nullptr;
};
void AddConditionOptions(CLI::App* command, ConditionOptions* options);
// Empty when no condition was given.
Result<std::optional<api::Condition>> BuildCondition(const ConditionOptions& options, Encoding encoding);

// --start, --end, --prefix, --snapshot.
struct RangeOptions {
  std::string start, end, prefix, snapshot;
};
// Refuses "": an empty $token must not silently mean something else.
CLI::Validator NotEmpty();
void AddSnapshotOption(CLI::App* command, std::string* token);  // base64, as `snapshot open` prints it
void AddRangeOptions(CLI::App* command, RangeOptions* options);
struct Range {
  std::string start, end, prefix, snapshot;
};
Result<Range> BuildRange(const RangeOptions& options, Encoding encoding);
// For every request that has a range.
template <typename Request>
void SetRange(const Range& range, Request* request) {
  request->start_key = range.start;
  request->end_key = range.end;
  request->prefix = range.prefix;
  request->snapshot = range.snapshot;
}

// Versions are 64-bit: as JSON numbers they would lose digits in JavaScript and jq.
inline std::string VersionText(int64_t version) { return std::to_string(static_cast<uint64_t>(version)); }
Json RecordJson(std::string_view key, const api::Record& record);
std::string TimeText(int64_t unix_ms);  // "2025-01-31 12:00:00.000Z", or "never" for 0

// One line. Bytes that are not UTF-8 (a path, a server's message) are replaced, not an error.
std::string JsonText(const Json& json);
void PrintJson(const Json& json);
// Ends a command that printed rows and counted them in `what` ("rows"). A cursor means that there are more, because of
// the limit or because `status` is an error: it is printed, as {"more": {"rows", "cursor"}} or as a sentence.
Result<ExitCode> EndOfRows(const Globals& globals, uint64_t rows, std::string_view what, const std::string& cursor,
                           Status status);
void ReportError(const Globals& globals, const Status& status);

// Prints the outcome of a conditional write and returns kExitOk or kExitNo.
ExitCode ReportWrite(const Globals& globals, std::string_view key, Encoding encoding, const api::WriteResult& result,
                     std::string_view done);

}  // namespace pando::admin
