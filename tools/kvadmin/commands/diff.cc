// kvadmin diff: prints what changed since a snapshot.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr uint64_t kPageRows = 1000;

struct DiffOptions {
  std::string since, cursor;
  RangeOptions range;
  Encoding encoding = Encoding::kText;
  uint64_t limit = 100;
  bool keys_only = false;
};

void Print(const Globals& globals, const DiffOptions& options, const api::Row& row) {
  if (!globals.json) {
    const std::string key = Printable(row.key, options.encoding);
    if (row.removed || options.keys_only) {
      tools::Print("{} {}\n", row.removed ? '-' : '+', key);
    } else {
      tools::Print("+ {}  {}\n", key, Printable(row.value, options.encoding, 200));
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
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range, options.encoding));
  api::ScanRequest request;
  SetRange(range, &request);
  ASSIGN_OR_RETURN(request.since, Base64Decode(options.since));
  request.keys_only = options.keys_only;
  ASSIGN_OR_RETURN(request.cursor, Base64Decode(options.cursor));
  Client client(globals.target);
  uint64_t rows = 0;
  Status status;
  do {
    const uint64_t left = options.limit == 0 ? kPageRows : std::min(options.limit - rows, kPageRows);
    request.limit_rows = static_cast<int32_t>(left);
    api::ScanReply reply;
    status = client.Kv(Client::Repeat::kSafe,
                       [&](api::KvClient& kv, const api::Context& context) { kv.scan(reply, context, request); });
    if (!status.ok()) break;
    for (const api::Row& row : reply.rows) Print(globals, options, row);
    RETURN_IF_ERROR(tools::OutputStatus());
    rows += reply.rows.size();
    request.cursor = reply.cursor;
  } while (!request.cursor.empty() && (options.limit == 0 || rows < options.limit));
  return EndOfRows(globals, rows, "changes", request.cursor, std::move(status));
}

}  // namespace

void AddDiffCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<DiffOptions>();
  CLI::App* command = app.add_subcommand("diff", "Print what changed since a snapshot, in key order");
  command->add_option("since", o->since, "The older snapshot, as `kvadmin snapshot open` printed it")
      ->required()
      ->check(NotEmpty());
  AddRangeOptions(command, &o->range);
  AddEncodingOptions(command, &o->encoding);
  tools::AddNumber(command, "--limit", &o->limit, "Most changes to print; 0 = all")->capture_default_str();
  command->add_option("--cursor", o->cursor, "Continue an earlier diff: the cursor that it printed");
  command->add_flag(Spell("--keys-only"), o->keys_only, "Print keys without values");
  command->footer(
      "+ marks a record that was put since the snapshot, as it is now (or in --snapshot); - marks a record that no\n"
      "longer exists. The time depends on the number of changed pages, not on the size of the range.\n\n"
      "Examples:\n"
      "  token=$(kvadmin snapshot open --ttl-s 3600)\n"
      "  kvadmin diff $token --limit 0\n"
      "  kvadmin --json diff $token --prefix user/");
  OnChosen(command, globals, [=] { return Diff(*globals, *o); });
}

}  // namespace pando::admin
