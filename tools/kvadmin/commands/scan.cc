// kvadmin scan: prints the records of a range, in key order.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

#include "src/base/limits.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/snapshot_lease.h"
#include "tools/kvadmin/verified_rows.h"

namespace pando::admin {

namespace {

constexpr uint64_t kPageRows = 1000;
constexpr size_t kFallbackColumns = 120;
constexpr size_t kMaxKeyColumns = 64;
constexpr size_t kMinValueColumns = 20;

struct ScanOptions {
  RangeOptions range;
  bool reverse = false, keys_only = false, sizes_only = false, verify = false;
};

size_t TerminalColumns() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kFallbackColumns;
}

// Prints one page of rows at a time, so that a scan of a large range needs little memory.
class RowPrinter {
 public:
  RowPrinter(const Globals& globals, const ScanOptions& options)
      : json_(globals.json), options_(options), columns_(TerminalColumns()) {}

  void Print(const std::vector<api::Row>& rows) {
    if (json_) {
      for (const api::Row& row : rows) PrintRowJson(row);
    } else if (options_.keys_only) {
      for (const api::Row& row : rows) tools::Print("{}\n", Printable(row.key, options_.range.encoding));
    } else {
      PrintTable(rows);
    }
  }

 private:
  void PrintRowJson(const api::Row& row) const {
    Json j;
    SetBytes(&j, "key", row.key);
    if (options_.sizes_only) {
      j["value_bytes"] = row.value_bytes;
    } else if (!options_.keys_only) {
      SetBytes(&j, "value", row.value);
    }
    j["version"] = VersionText(row.version);
    if (row.expires_at_ms != 0) j["expires_at_ms"] = row.expires_at_ms;
    PrintJson(j);
  }
  void PrintTable(const std::vector<api::Row>& rows) const {
    if (rows.empty()) return;
    std::vector<std::string> keys;
    size_t widest = 3;
    for (const api::Row& row : rows) {
      keys.push_back(Printable(row.key, options_.range.encoding, kMaxKeyColumns));
      widest = std::max(widest, tools::DisplayWidth(keys.back()));
    }
    size_t left = columns_ > widest + 2 + kMinValueColumns ? columns_ - widest - 2 : kMinValueColumns;
    tools::Table table({"KEY", options_.sizes_only ? "BYTES" : "VALUE"}, /*align_numbers=*/options_.sizes_only);
    for (size_t i = 0; i < rows.size(); ++i) {
      table.Row({keys[i], options_.sizes_only ? std::to_string(rows[i].value_bytes)
                                              : Printable(rows[i].value, options_.range.encoding, left)});
    }
    tools::Print("{}", table.Render());
  }

  bool json_;
  const ScanOptions& options_;
  size_t columns_;
};

// Scans one snapshot and compares the rows with what the store counts.
Status ScanVerified(Client& client, const Globals& globals, const ScanOptions& options, Range range,
                    api::ScanRequest* request, RowPrinter* printer, uint64_t* rows) {
  SnapshotLease lease(&client, SnapshotLease::kWorkingTtl);
  if (range.snapshot.empty()) {
    RETURN_IF_ERROR(lease.Open());
    request->snapshot = range.snapshot = lease.token();
  }
  VerifiedRows sums(&client, std::move(range), options.reverse, options.range.encoding);
  const Status scanned =
      ScanRows(client, request, options.range.limit, kPageRows, rows, [&](const std::vector<api::Row>& page) -> Status {
        printer->Print(page);
        sums.Add(ViewsOf(page));
        if (sums.due() && !request->cursor.empty()) RETURN_IF_ERROR(sums.Check(/*over=*/false));
        if (!lease.token().empty()) RETURN_IF_ERROR(lease.Keep());
        return tools::OutputStatus();
      });
  RETURN_IF_ERROR(scanned);
  RETURN_IF_ERROR(sums.Check(/*over=*/request->cursor.empty()));
  const RangeAggregates& verified = sums.verified();
  if (globals.json) {
    PrintJson(Json{{"verified",
                    {{"records", verified.count},
                     {"bytes", verified.bytes},
                     {"content_hash", fmt::format("{:016x}", verified.content_hash)}}}});
  } else {
    tools::PrintNote("verified: {} records, {} bytes, content hash {:016x}, as the store counts them\n", verified.count,
                     verified.bytes, verified.content_hash);
  }
  return lease.Release();
}

Result<ExitCode> Scan(const Globals& globals, const ScanOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  api::ScanRequest request;
  if (options.verify && !range.cursor.empty()) {
    return Error(Code::kInvalidArgument, "--verify cannot tell where a --cursor begins; give --start instead");
  }
  SetRange(range, &request);
  request.reverse = options.reverse;
  request.keys_only = options.keys_only;
  request.sizes_only = options.sizes_only;

  Client client(globals.target);
  RowPrinter printer(globals, options);
  uint64_t rows = 0;
  const bool own_snapshot = options.verify && range.snapshot.empty();
  Status status = options.verify ? ScanVerified(client, globals, options, std::move(range), &request, &printer, &rows)
                                 : ScanRows(client, &request, options.range.limit, kPageRows, &rows,
                                            [&](const std::vector<api::Row>& page) {
                                              printer.Print(page);
                                              return tools::OutputStatus();
                                            });
  RETURN_IF_ERROR(tools::OutputStatus());
  if (own_snapshot && !request.cursor.empty()) {
    // A cursor continues only in its snapshot, and that is released.
    if (!status.ok()) return status;
    if (!globals.json) tools::PrintNote("{} rows; there are more: use --limit 0 for all\n", rows);
    return kExitOk;
  }
  return EndOfRows(globals, rows, "rows", request.cursor, std::move(status));
}

}  // namespace

void AddScanCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<ScanOptions>();
  tools::Command command = app.Add("scan", "Print the records of a range in key order");
  AddRangeOptions(command, &o->range);
  AddPageOptions(command, &o->range, "scan", "rows");
  command.Flag("--reverse", &o->reverse, "Scan from the end of the range to its start");
  auto keys_only = command.Flag("--keys-only", &o->keys_only, "Print keys without values");
  auto sizes_only = command.Flag("--sizes-only", &o->sizes_only, "Print the sizes of the values instead of the values")
                        .Excludes(keys_only);
  command
      .Flag("--verify", &o->verify,
            "Scan a snapshot, and compare the rows with the number, bytes and content hash that the store keeps")
      .Excludes(keys_only)
      .Excludes(sizes_only);
  command.Footer(
      "The table truncates long values; --json prints one complete record per line.\n\n"
      "Examples:\n"
      "  kvadmin scan --prefix libthrift\n"
      "  kvadmin scan --start a --end b --keys-only --limit 0\n"
      "  kvadmin scan --reverse --limit 5\n"
      "  kvadmin --json scan --prefix user/ --limit 0 | jq -r .key\n"
      "  kvadmin scan --prefix user/ --limit 0 --verify > /dev/null\n"
      "Exit codes: 0 printed; 4 with --verify: the rows are not what the store counts in the range.");
  OnChosen(command, globals, [=] { return OfManyPartitions(Scan(*globals, *o)); });
}

}  // namespace pando::admin
