// kvadmin diff: what changed since a snapshot.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr uint64_t kPageRows = 1000;

struct DiffOptions {
  std::string since;
  RangeOptions range;
  Encoding encoding = Encoding::kText;
  uint64_t limit = 100;
  bool keys_only = false;
};

void Print(const Globals& globals, const DiffOptions& options, const api::Row& row) {
  if (!globals.json) {
    const std::string key = Printable(row.key, options.encoding);
    if (row.removed || options.keys_only) {
      fmt::print("{} {}\n", row.removed ? '-' : '+', key);
    } else {
      fmt::print("+ {}  {}\n", key, Printable(row.value, options.encoding, 200));
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
  Client client(globals.target);
  uint64_t rows = 0;
  do {
    const uint64_t left = options.limit == 0 ? kPageRows : std::min(options.limit - rows, kPageRows);
    request.limit_rows = static_cast<int32_t>(left);
    api::ScanReply reply;
    RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
      kv.scan(reply, context, request);
    }));
    for (const api::Row& row : reply.rows) Print(globals, options, row);
    rows += reply.rows.size();
    request.cursor = reply.cursor;
  } while (!request.cursor.empty() && (options.limit == 0 || rows < options.limit));
  if (!request.cursor.empty()) {
    fmt::print(stderr, "{} changes; there are more: --limit 0 shows all\n", rows);
  } else if (!globals.json) {
    fmt::print(stderr, "{} changes\n", rows);
  }
  return kExitOk;
}

}  // namespace

void AddDiffCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<DiffOptions>();
  CLI::App* command = app.add_subcommand("diff", "Print what changed since a snapshot, in key order");
  command->add_option("since", o->since, "The older snapshot, as `kvadmin snapshot open` printed it")->required();
  AddRangeOptions(command, &o->range);
  AddEncodingOptions(command, &o->encoding);
  command->add_option("--limit", o->limit, "Changes to print; 0 = all")->capture_default_str();
  command->add_flag(Spell("--keys-only"), o->keys_only, "Without values");
  command->footer(
      "+ is a record that was put since, as it is now (or in --snapshot), - one that is no more. Takes as long as "
      "there\n"
      "are changed pages, whatever the range holds.\n\n"
      "Examples:\n"
      "  token=$(kvadmin snapshot open --ttl-s 3600)\n"
      "  kvadmin diff $token --limit 0\n"
      "  kvadmin --json diff $token --prefix user/");
  OnChosen(command, globals, [=] { return Diff(*globals, *o); });
}

}  // namespace pando::admin
