#include <fmt/chrono.h>
#include <fmt/format.h>

#include <csignal>
#include <ctime>

#include "tools/common/interrupts.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

Result<ExitCode> RunCaught(const std::function<Result<ExitCode>()>& body) {
  try {
    return body();
  } catch (const std::exception& e) {  // out of memory, or thrown by a library
    return Error(Code::kIoError, "{}", e.what());
  }
}

}  // namespace

void OnChosen(tools::Command command, Globals* globals, std::function<Result<ExitCode>()> body) {
  command.OnChosen([globals, body = std::move(body)] {
    Result<ExitCode> result = RunCaught(body);
    Status error = result.ok() ? Status() : result.status();
    globals->exit_code = result.ok() ? *result : ExitCodeOf(error);
    if (!error.ok()) globals->end_signal = tools::Interrupts::Signal();
    if (Status flushed = tools::FlushOutput(); !flushed.ok()) {
      // A result that did not reach the caller is a failure, whatever the command did.
      const bool only_output = error.ok() || error.message() == flushed.message();
      if (only_output) globals->exit_code = kExitFailed;
      if (only_output && tools::OutputReaderGone()) {
        globals->end_signal = SIGPIPE;
        return;
      }
      if (error.ok()) error = std::move(flushed);
    }
    if (!error.ok()) ReportError(*globals, error);
  });
}

Result<ExitCode> OfManyPartitions(Result<ExitCode> result) {
  if (result.ok() || result.status().code() != Code::kNotMaster) return result;
  return Error(
      Code::kNotMaster,
      "{}. This command needs a router of the cluster in --server, or one node that leads every partition it "
      "reads; backup needs such a node. Let one lead all of them for that time, with kvadmin failover PARTITION "
      "--to NODE for each, and name only that node in --server; kvadmin cluster status -v says who leads what, and "
      "\"Back up a cluster\" in OPERATING says more",
      result.status().message());
}

void ReportError(const Globals& globals, const Status& status) {
  if (globals.json) {
    Json error;
    error["error"]["code"] = std::string(ErrorName(status.code()));
    error["error"]["message"] = status.message();
    tools::PrintNote("{}\n", JsonText(error));
  } else {
    tools::PrintNote("kvadmin: {}\n", status.message());
  }
}

Result<ExitCode> EndOfRows(const Globals& globals, uint64_t rows, std::string_view what, const std::string& cursor,
                           Status status) {
  const std::string token = Base64Encode(cursor);
  // Without rows, the cursor is the one that the user gave, and the server has just refused it.
  const bool refused = rows == 0 && status.code() == Code::kInvalidArgument;
  if (cursor.empty() || refused) {
    if (!globals.json && status.ok()) tools::PrintNote("{} {}\n", rows, what);
  } else if (globals.json) {
    Json j;
    j["more"] = Json{{"rows", rows}, {"cursor", token}};
    PrintJson(j);
  } else {
    tools::PrintNote("{} {}; there are more: repeat with --cursor {}, or use --limit 0 for all\n", rows, what, token);
  }
  if (!status.ok()) return status;
  return kExitOk;
}

void AddConditionOptions(tools::Command command, ConditionOptions* options) {
  options->version_option =
      command.Text("--if-version", &options->version, "Only if the record has this version, as `get -v` prints it");
  options->value_option = command.Text("--if-value", &options->value, "Only if the record has this value");
  auto exists = command.Flag("--if-exists", &options->exists, "Only if the record exists");
  auto absent = command.Flag("--if-absent", &options->absent, "Only if the record does not exist");
  exists.Excludes(absent);
}

Result<std::optional<api::Condition>> BuildCondition(const ConditionOptions& options, Encoding encoding) {
  api::Condition condition;
  if (options.version_option.given()) {
    const std::optional<uint64_t> version = tools::ParseNumber<uint64_t>(options.version);
    if (!version)
      return Error(Code::kInvalidArgument,
                   "--if-version={}: this is not a version; give the number that `kvadmin get -v` prints",
                   options.version);
    condition.__set_version(static_cast<int64_t>(*version));
  }
  if (options.value_option.given()) {
    ASSIGN_OR_RETURN(std::string value, DecodeInput(options.value, encoding, "--if-value"));
    condition.__set_value(value);
  }
  if (options.exists || options.absent) condition.__set_exists(options.exists);
  if (condition == api::Condition()) return std::optional<api::Condition>();
  return std::optional<api::Condition>(std::move(condition));
}

Json RecordJson(std::string_view key, const api::Record& record) {
  Json j;
  SetBytes(&j, "key", key);
  j["found"] = record.found;
  if (!record.found) return j;
  SetBytes(&j, "value", record.value);
  j["version"] = VersionText(record.version);
  if (record.expires_at_ms != 0) j["expires_at_ms"] = record.expires_at_ms;
  return j;
}

std::string TimeText(int64_t unix_ms) {
  if (unix_ms == 0) return "never";
  auto seconds = static_cast<std::time_t>(unix_ms / 1000);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}.{:03}Z", fmt::gmtime(seconds), unix_ms % 1000);
}

std::string JsonText(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
void PrintJson(const Json& json) { tools::Print("{}\n", JsonText(json)); }

ExitCode ReportWrite(const Globals& globals, std::string_view key, Encoding encoding, const api::WriteResult& result,
                     std::string_view done) {
  if (globals.json) {
    Json j;
    SetBytes(&j, "key", key);
    j["applied"] = result.applied;
    j["existed"] = result.existed;
    if (result.applied) j["version"] = VersionText(result.version);
    if (result.__isset.number) j["number"] = result.number;
    if (result.__isset.current) {
      j["current"] = RecordJson(key, result.current);
      j["current"].erase("key");
      j["current"].erase("key_b64");
    }
    PrintJson(j);
  } else if (result.applied) {
    tools::Print("{}\n", done);
  } else if (result.__isset.current && result.current.found) {
    tools::PrintNote("not applied: the condition does not hold; \"{}\" has version {}, value \"{}\"\n",
                     Printable(key, encoding), VersionText(result.current.version),
                     Printable(result.current.value, encoding, 200));
  } else {
    tools::PrintNote("not applied: the condition does not hold; there is no record \"{}\"\n", Printable(key, encoding));
  }
  return result.applied ? kExitOk : kExitNo;
}

}  // namespace pando::admin
