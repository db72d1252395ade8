// kvadmin delete-range: deletes the records of a range, one bounded call after another.
#include <fmt/format.h>

#include "src/base/counted.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct DeleteRangeOptions {
  RangeOptions range;
  int64_t max_version = 0;
  bool all = false;
};

Result<ExitCode> DeleteRange(const Globals& globals, const DeleteRangeOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  if (range.whole_store() && !options.all) {
    return Error(Code::kInvalidArgument,
                 "without --start, --end or --prefix this deletes every record; give --all if you want that");
  }
  if (!range.whole_store() && options.all) {
    return Error(Code::kInvalidArgument, "--all means the whole store; leave out --start, --end and --prefix");
  }
  api::DeleteRangeRequest request;
  SetRange(range, &request);
  request.max_version = options.max_version;
  Client client(globals.target);
  int64_t removed = 0;
  // If a call is repeated, it removes what the first attempt left. The records that the first attempt
  // removed are then missing from the sum.
  Status status = ForEachPage(client, Client::Repeat::kSafeWrite, &api::KvIf::deleteRange, &request,
                              [&removed](const api::DeleteRangeReply& reply) -> Result<bool> {
                                removed += reply.removed;
                                return true;
                              });
  if (!status.ok()) {
    return Error(status.code(), "{} ({} records were removed before this; run the command again to remove the rest)",
                 status.message(), removed);
  }
  if (globals.json) {
    PrintJson(Json{{"removed", removed}});
  } else {
    tools::Print("{} removed\n", Counted(static_cast<uint64_t>(removed), "record"));
  }
  return kExitOk;
}

}  // namespace

void AddDeleteRangeCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<DeleteRangeOptions>();
  tools::Command command = app.Add("delete-range", "Delete all records of a range");
  AddKeyRangeOptions(command, &o->range);
  command.Flag("--all", &o->all, "Delete all records of the store");
  command.Number("--max-version", &o->max_version,
                 "Only records up to this version, such as that of a snapshot; records written later stay", 1);
  command.Footer(
      "The records are not deleted all at once: readers may see some of them deleted before others.\n\n"
      "Examples:\n"
      "  kvadmin delete-range --prefix tmp/\n"
      "  kvadmin delete-range --start a --end b\n"
      "Exit codes: 0 all records of the range were deleted; 3 cut short.");
  OnChosen(command, globals, [=] { return OfManyPartitions(DeleteRange(*globals, *o)); });
}

}  // namespace pando::admin
