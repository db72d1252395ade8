// kvadmin delete-range: deletes the records of a range, one bounded call after another.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct DeleteRangeOptions {
  RangeOptions range;
  Encoding encoding = Encoding::kText;
  int64_t max_version = 0;
  bool all = false;
};

Result<ExitCode> DeleteRange(const Globals& globals, const DeleteRangeOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range, options.encoding));
  const bool whole_store = range.start.empty() && range.end.empty() && range.prefix.empty();
  if (whole_store && !options.all) {
    return Error(Code::kInvalidArgument,
                 "without --start, --end or --prefix this deletes every record; give --all if you want that");
  }
  if (!whole_store && options.all) {
    return Error(Code::kInvalidArgument, "--all means the whole store; leave out --start, --end and --prefix");
  }
  api::DeleteRangeRequest request;
  request.start_key = range.start;
  request.end_key = range.end;
  request.prefix = range.prefix;
  request.max_version = options.max_version;
  Client client(globals.target);
  int64_t removed = 0;
  do {
    api::DeleteRangeReply reply;
    // If the call is repeated, it removes what the first attempt left. The records that the first
    // attempt removed are then missing from the sum.
    Status status = client.Kv(Client::Repeat::kSafeWrite, [&](api::KvClient& kv, const api::Context& context) {
      kv.deleteRange(reply, context, request);
    });
    if (!status.ok()) {
      return Error(status.code(), "{} ({} records were removed before this; run the command again to remove the rest)",
                   status.message(), removed);
    }
    removed += reply.removed;
    request.cursor = reply.cursor;
  } while (!request.cursor.empty());
  if (globals.json) {
    PrintJson(Json{{"removed", removed}});
  } else {
    tools::Print("{} records removed\n", removed);
  }
  return kExitOk;
}

}  // namespace

void AddDeleteRangeCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<DeleteRangeOptions>();
  CLI::App* command = app.add_subcommand("delete-range", "Delete all records of a range");
  command->add_option("--start", o->range.start, "First key (inclusive)");
  command->add_option("--end", o->range.end, "End of the range (exclusive)");
  command->add_option("--prefix", o->range.prefix, "Only keys that begin with this");
  command->add_flag("--all", o->all, "Delete all records of the store");
  tools::AddNumber(command, Spell("--max-version"), &o->max_version,
                   "Only records up to this version, such as that of a snapshot; records written later stay", 1);
  AddEncodingOptions(command, &o->encoding);
  command->footer(
      "The records are not deleted all at once: readers may see some of them deleted before others.\n\n"
      "Examples:\n"
      "  kvadmin delete-range --prefix tmp/\n"
      "  kvadmin delete-range --start a --end b\n"
      "Exit codes: 0 all records of the range were deleted; 3 cut short.");
  OnChosen(command, globals, [=] { return DeleteRange(*globals, *o); });
}

}  // namespace pando::admin
