// kvadmin diff: prints what changed since a snapshot.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr uint64_t kPageRows = 1000;

struct DiffOptions {
  std::string since;
  RangeOptions range;
  bool keys_only = false;
};

void Print(const Globals& globals, const DiffOptions& options, const api::Row& row) {
  if (!globals.json) {
    const std::string key = Printable(row.key, options.range.encoding);
    if (row.removed || options.keys_only) {
      tools::Print("{} {}\n", row.removed ? '-' : '+', key);
    } else {
      tools::Print("+ {}  {}\n", key, Printable(row.value, options.range.encoding, 200));
    }
    return;
  }
  Json j;
  SetBytes(&j, "key", row.key);
  if (row.removed) {
    j["removed"] = true;
  } else {
    if (!options.keys_only) SetBytes(&j, "value", row.value);
    j["version"] = VersionText(row.version);
    if (row.expires_at_ms != 0) j["expires_at_ms"] = row.expires_at_ms;
  }
  PrintJson(j);
}

Result<ExitCode> Diff(const Globals& globals, const DiffOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  api::ScanRequest request;
  SetRange(range, &request);
  ASSIGN_OR_RETURN(request.since, Base64Decode(options.since));
  request.keys_only = options.keys_only;
  Client client(globals.target);
  uint64_t rows = 0;
  Status status =
      ScanRows(client, &request, options.range.limit, kPageRows, &rows, [&](const std::vector<api::Row>& page) {
        for (const api::Row& row : page) Print(globals, options, row);
        return tools::OutputStatus();
      });
  RETURN_IF_ERROR(tools::OutputStatus());
  return EndOfRows(globals, rows, "changes", request.cursor, std::move(status));
}

}  // namespace

void AddDiffCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<DiffOptions>();
  tools::Command command = app.Add("diff", "Print what changed since a snapshot, in key order");
  command.Text("since", &o->since, "The older snapshot, as `kvadmin snapshot open` printed it").Required().NotEmpty();
  AddRangeOptions(command, &o->range);
  AddPageOptions(command, &o->range, "diff", "changes");
  command.Flag("--keys-only", &o->keys_only, "Print keys without values");
  command.Footer(
      "+ marks a record that was put since the snapshot, as it is now (or in --snapshot); - marks a record that no\n"
      "longer exists. The time depends on the number of changed pages, not on the size of the range.\n\n"
      "Examples:\n"
      "  token=$(kvadmin snapshot open)\n"
      "  kvadmin diff $token --limit 0\n"
      "  kvadmin --json diff $token --prefix user/");
  OnChosen(command, globals, [=] { return OfManyPartitions(Diff(*globals, *o)); });
}

}  // namespace pando::admin
