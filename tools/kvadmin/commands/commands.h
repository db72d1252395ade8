// The subcommands of kvadmin, one file each. Each adds itself to the command line with its Add
// function, and CLI11 runs the callback of the chosen one.
//
// Conventions: The result goes to standard output (text, or JSON with --json). Notes, progress and
// errors go to standard error; with --json, errors are JSON too, and there is no progress. The exit
// code is one of exit_codes.h. All output goes through tools/common/output.h, and all numeric
// options through tools/common/number_option.h.
//
// Threads: one.
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
  int end_signal = 0;  // if not 0, the process ends by this signal: an interrupt or SIGPIPE
};

// Adds the global options and every command to `app`.
void DescribeCommandLine(CLI::App& app, Globals* globals);
// Parses the command line, runs the command and reports errors. Afterwards, `globals` says how the
// process should end.
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

// If `command` is chosen: runs `body`, checks that its output arrived, prints its error, and sets
// the exit code.
void OnChosen(CLI::App* command, Globals* globals, std::function<Result<ExitCode>()> body);

// "--keys-only" -> "--keys-only,--keys_only", so that both spellings work everywhere.
std::string Spell(const std::string& dashed);

// --hex and --base64: how keys and values are read and printed.
void AddEncodingOptions(CLI::App* command, Encoding* encoding);

// --if-version, --if-value, --if-exists, --if-absent.
struct ConditionOptions {
  std::string version, value;
  bool exists = false, absent = false;
  CLI::Option* version_option = nullptr;
  CLI::Option* value_option = nullptr;
};
void AddConditionOptions(CLI::App* command, ConditionOptions* options);
// Returns nothing if no condition was given.
Result<std::optional<api::Condition>> BuildCondition(const ConditionOptions& options, Encoding encoding);

// --start, --end, --prefix, --snapshot.
struct RangeOptions {
  std::string start, end, prefix, snapshot;
};
// Refuses an empty string: an unset $token in a script must not silently change what is read.
CLI::Validator NotEmpty();
void AddSnapshotOption(CLI::App* command, std::string* token);  // base64, as printed
void AddRangeOptions(CLI::App* command, RangeOptions* options);
struct Range {
  std::string start, end, prefix, snapshot;
};
Result<Range> BuildRange(const RangeOptions& options, Encoding encoding);
// Sets the range of any request that has one.
template <typename Request>
void SetRange(const Range& range, Request* request) {
  request->start_key = range.start;
  request->end_key = range.end;
  request->prefix = range.prefix;
  request->snapshot = range.snapshot;
}

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
