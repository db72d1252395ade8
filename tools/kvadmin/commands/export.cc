// kvadmin export: writes the records of a range to a file, in key order.
//
// Threads: one.
#include <csv.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>

#include "src/base/limits.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/export_file.h"
#include "tools/kvadmin/patience.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/record_reader.h"
#include "tools/kvadmin/snapshot_lease.h"
#include "tools/kvadmin/verified_rows.h"

namespace pando::admin {

namespace {

struct ExportOptions {
  RangeOptions range;
  std::string output = "-";
  std::optional<Format> format;
  bool resume = false, quiet = false, latest = false, no_verify = false;
  bool verify() const { return !latest && !no_verify; }
  uint32_t page_rows = 2000;
  uint64_t save_every_mb = 64;
  uint32_t retry_s = 60;
};

std::string CsvField(std::string_view bytes) {
  std::string out(2 * bytes.size() + 2, '\0');  // worst case: each byte is a doubled quote
  out.resize(csv_write(out.data(), out.size(), bytes.data(), bytes.size()));
  return out;
}

class RowWriter {
 public:
  RowWriter(Format format, bool base64) : format_(format), base64_(base64) {}
  std::string Header() const {
    if (format_ == Format::kJsonLines) return "";
    return base64_ ? "key_b64,value_b64,expires_at_ms\n" : "key,value,expires_at_ms\n";
  }
  void Append(const api::Row& row, std::string* out) const {
    if (format_ == Format::kJsonLines) {
      Json j;
      SetBytes(&j, "key", row.key);
      SetBytes(&j, "value", row.value);
      if (row.expires_at_ms != 0) j["expires_at_ms"] = row.expires_at_ms;
      *out += j.dump() + '\n';
      return;
    }
    *out +=
        base64_ ? Base64Encode(row.key) + ',' + Base64Encode(row.value) : CsvField(row.key) + ',' + CsvField(row.value);
    *out += ',';
    if (row.expires_at_ms != 0) *out += std::to_string(row.expires_at_ms);
    *out += '\n';
  }

 private:
  Format format_;
  bool base64_;
};

Result<int64_t> CountRange(Client& client, const Range& range) {
  api::CountRequest request;
  SetRange(range, &request);
  ASSIGN_OR_RETURN(api::CountReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::count, request));
  return reply.count;
}

// Chooses the snapshot to read: the one given by --snapshot, the one of the export that is resumed,
// or a new one. With --latest there is none.
Status ChooseSnapshot(const ExportOptions& options, const ExportFile::Position& position, Range* range,
                      SnapshotLease* lease) {
  if (!range->snapshot.empty() || options.latest) return Status();
  if (position.snapshot.empty()) {
    RETURN_IF_ERROR(lease->Open());
  } else if (Status status = lease->Adopt(position.snapshot); status.code() == Code::kSnapshotGone) {
    return Error(Code::kSnapshotGone,
                 "the snapshot of this export has expired, or the server was restarted; start the export again, "
                 "without --resume");
  } else {
    RETURN_IF_ERROR(status);
  }
  range->snapshot = lease->token();
  return Status();
}

// An interrupted export continues only at the node, or at a router of the cluster, where it began: two stores must not
// end up in one file.
Result<std::string> NodeId(Client& client) {
  api::HelloRequest request;
  request.client_name = "kvadmin export";
  ASSIGN_OR_RETURN(api::HelloReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::hello, request));
  return Result<std::string>(std::move(reply.node_id));
}

std::string Identity(const ExportOptions& options, const Range& range, Format format, const std::string& node) {
  return fmt::format("node={} {} start={} end={} prefix={} {}{}", node, format == Format::kCsv ? "csv" : "jsonl",
                     HexEncode(range.start), HexEncode(range.end), HexEncode(range.prefix),
                     options.latest ? "latest" : "snapshot=" + HexEncode(range.snapshot),
                     options.range.encoding == Encoding::kBase64 ? " base64" : "");
}

struct Scanned {
  uint64_t rows = 0;   // in the file, including those of the export that is resumed
  std::string cursor;  // continues after these rows
  uint64_t saved_rows = 0;
  std::optional<VerifiedRows> sums;
  bool differs = false;  // the last part is not what the store has; the saved position is before it
  ExportFile::Position Position(const SnapshotLease& lease) const {
    return {cursor, lease.token(), 0, rows, sums ? sums->Save() : ""};
  }
  // Compares what came since the last time.
  Status Check() {
    if (!sums) return Status();
    Status same = sums->Check(/*over=*/cursor.empty());
    differs = same.code() == Code::kCorruption;
    return same;
  }
};

Status ScanInto(Client& client, const ExportOptions& options, const Range& range, const RowWriter& writer,
                ExportFile* file, SnapshotLease* lease, Progress* progress, Scanned* scanned) {
  const Patience patience(int64_t{options.retry_s} * 1000);
  ASSIGN_OR_RETURN(int64_t expected, patience([&] { return CountRange(client, range); }));
  progress->SetTotal(static_cast<uint64_t>(expected));
  api::ScanRequest request;
  SetRange(range, &request);
  request.limit_rows = static_cast<int32_t>(options.page_rows);
  request.cursor = scanned->cursor;
  uint64_t bytes_at_save = file->bytes();
  std::string out;
  for (;;) {
    if (!lease->token().empty()) RETURN_IF_ERROR(patience([&] { return lease->Keep(); }));
    ASSIGN_OR_RETURN(const api::ScanReply page,
                     patience([&] { return client.Call(Client::Repeat::kSafe, &api::KvIf::scan, request); }));
    out.clear();
    for (const api::Row& row : page.rows) writer.Append(row, &out);
    RETURN_IF_ERROR(file->Write(out));
    if (scanned->sums) scanned->sums->Add(page.rows);
    scanned->rows += page.rows.size();
    scanned->cursor = request.cursor = page.cursor;
    progress->Update(scanned->rows, file->bytes(), scanned->rows);
    const bool over = page.cursor.empty();
    const bool save = !over && file->bytes() - bytes_at_save >= options.save_every_mb << 20;
    if (over || save || (scanned->sums && scanned->sums->due())) {
      RETURN_IF_ERROR(patience([&] { return scanned->Check(); }));
    }
    if (over) return Status();
    if (!save) continue;
    RETURN_IF_ERROR(file->Save(scanned->Position(*lease)));
    scanned->saved_rows = scanned->rows;
    bytes_at_save = file->bytes();
  }
}

// Ends an export that failed or was interrupted. If possible, its rows and its snapshot are kept
// for --resume. Returns `why`, with what was kept.
Status CutShort(const ExportOptions& options, Status why, const Scanned& scanned, ExportFile* file,
                SnapshotLease* lease) {
  if (options.output == "-") return why;  // the lease releases the snapshot
  if (why.code() == Code::kSnapshotGone) {
    return Error(why.code(), "{}; start the export again, without --resume", why.message());
  }
  uint64_t rows = scanned.saved_rows;
  if (scanned.rows > 0 && !scanned.cursor.empty() && !scanned.differs) {
    // If this fails (because the disk is full), an earlier position may still be there.
    Status saved = file->Save(scanned.Position(*lease));
    if (!saved.ok() && !file->resumable()) return Error(why.code(), "{}; nothing was kept", why.message());
    if (saved.ok()) rows = scanned.rows;
  }
  if (!file->resumable()) return Error(why.code(), "{}; nothing was exported", why.message());
  const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(SnapshotLease::kResumableTtl).count();
  const bool kept = !lease->token().empty() && lease->Leave().ok();
  return Error(why.code(), "{}; {} records are in {}.partial, and --resume continues there{}", why.message(), rows,
               options.output,
               kept ? fmt::format(", for {} minutes, while the server keeps the snapshot", minutes) : "");
}

// Prepares the comparison of the rows with what the store counts.
Status StartSums(Client* client, const ExportOptions& options, const Range& range, const ExportFile::Position& position,
                 Scanned* scanned) {
  if (!options.verify()) return Status();
  scanned->sums.emplace(client, range, /*reverse=*/false, options.range.encoding);
  if (position.rows == 0) return Status();
  if (Status status = scanned->sums->Restore(position.sums); !status.ok()) {
    return Error(status.code(), "{}.partial: {}; resume with --no-verify, or start the export again, without --resume",
                 options.output, status.message());
  }
  return Status();
}

// What FILE.manifest says (docs/FORMAT.md, "Manifest of an export").
std::string Manifest(const ExportOptions& options, Format format, const Range& range, const std::string& node,
                     int64_t version, const ExportFile& file, const Scanned& scanned) {
  Json j;
  j["pando_export"] = 1;
  j["file_bytes"] = file.bytes();
  j["file_hash"] = file.hash();
  j["format"] = format == Format::kCsv ? "csv" : "jsonl";
  j["base64"] = options.range.encoding == Encoding::kBase64;
  j["from"] = node;
  for (const auto& [name, key] : {std::pair("start", &range.start), {"end", &range.end}, {"prefix", &range.prefix}}) {
    if (!key->empty()) SetBytes(&j, name, *key);
  }
  if (version != 0) j["snapshot_version"] = VersionText(version);
  j["records"] = scanned.rows;
  j["verified"] = scanned.sums.has_value();
  if (scanned.sums) {
    j["bytes"] = scanned.sums->verified().bytes;
    j["content_hash"] = fmt::format("{:016x}", scanned.sums->verified().content_hash);
  }
  return j.dump(1) + "\n";
}

void Report(const Globals& globals, const ExportOptions& options, const ExportFile& file, const Scanned& scanned,
            uint64_t resumed_rows, double seconds) {
  const std::string_view verified = scanned.sums ? ", verified" : "";
  if (options.output == "-") {
    if (!options.quiet && !globals.json) tools::PrintNote("{} records{}\n", scanned.rows, verified);
  } else if (globals.json) {
    PrintJson(Json{{"file", options.output},
                   {"records", scanned.rows},
                   {"bytes", file.bytes()},
                   {"seconds", seconds},
                   {"verified", scanned.sums.has_value()}});
  } else {
    const double rate = seconds > 0 ? static_cast<double>(scanned.rows - resumed_rows) / seconds : 0;
    tools::Print("{}: {} records{}, {}, in {:.1f} s ({:.0f} records/s)\n", options.output, scanned.rows, verified,
                 tools::HumanBytes(static_cast<double>(file.bytes())), seconds, rate);
  }
}

void NoteStart(const ExportOptions& options, const ExportFile::Position& position) {
  if (position.rows > 0) return tools::PrintNote("resuming after {} records\n", position.rows);
  if (options.resume)
    tools::PrintNote("no interrupted export to {} is there: starting from the beginning\n", options.output);
  if (options.quiet || options.output == "-" || ::access(options.output.c_str(), F_OK) != 0) return;
  tools::PrintNote("{} exists, and is replaced when the export is complete\n", options.output);
}

Result<ExitCode> Export(const Globals& globals, const ExportOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  if (options.resume && options.output == "-") {
    return Error(Code::kInvalidArgument, "--resume needs an output file (-o)");
  }
  const Format format = options.format.value_or(FormatOfFile(options.output));
  RowWriter writer(format, options.range.encoding == Encoding::kBase64);
  Client client(globals.target);
  ASSIGN_OR_RETURN(const std::string node, NodeId(client));
  ExportFile file;
  ExportFile::Position position;
  RETURN_IF_ERROR(file.Open(options.output, Identity(options, range, format, node), options.resume, &position));
  if (position.bytes == 0) RETURN_IF_ERROR(file.Write(writer.Header()));
  if (!globals.json) NoteStart(options, position);

  const bool to_file = options.output != "-";
  SnapshotLease lease(&client, to_file ? SnapshotLease::kResumableTtl : SnapshotLease::kWorkingTtl);
  RETURN_IF_ERROR(ChooseSnapshot(options, position, &range, &lease));
  Scanned scanned;
  scanned.rows = scanned.saved_rows = position.rows;
  scanned.cursor = position.cursor;
  RETURN_IF_ERROR(StartSums(&client, options, range, position, &scanned));
  Progress progress("exporting", "records", 0, options.quiet || globals.json);
  if (Status status = ScanInto(client, options, range, writer, &file, &lease, &progress, &scanned); !status.ok()) {
    progress.Clear();
    return CutShort(options, std::move(status), scanned, &file, &lease);
  }
  RETURN_IF_ERROR(file.Finish(Manifest(options, format, range, node, lease.version(), file, scanned)));
  progress.Clear();
  // The file is complete. If the snapshot cannot be released, it expires by itself.
  if (Status released = lease.Release(); !released.ok() && !globals.json) {
    tools::PrintNote("the snapshot could not be released, and will expire: {}\n", released.message());
  }
  Report(globals, options, file, scanned, position.rows, progress.ElapsedSeconds());
  return kExitOk;
}

}  // namespace

void AddExportCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<ExportOptions>();
  tools::Command command =
      app.Add("export", "Write the records of a range, or of the whole store, to a file that load reads");
  AddRangeOptions(command, &o->range);
  command.Text("-o,--output", &o->output, "The file to write; - is standard output").ShowDefault().NotEmpty();
  command.Choice(
      "--format", {"jsonl", "csv"},
      [o](const std::string& f) { o->format = f == "csv" ? Format::kCsv : Format::kJsonLines; },
      "jsonl or csv; default: by the name of the file, else jsonl");
  command.Flag("--resume", &o->resume,
               "Continue an interrupted export of the same range of the same node or cluster to the same file");
  command.Flag("--latest", &o->latest, "Read the latest records instead of a snapshot");
  command.Flag("--no-verify", &o->no_verify, "Do not compare the records with what the store counts in the range");
  command.Number("--retry-s", &o->retry_s, "Repeat a request for so long while a node or a router is away", 0, 86400)
      .ShowDefault();
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command.Number("--page-rows", &o->page_rows, "Rows per request", 1, kMaxScanRows).ShowDefault();
  command.Number("--save-every-mb", &o->save_every_mb, "Save the position for --resume every so many MiB", 0, 1'000'000)
      .ShowDefault();
  command.Footer(
      "The export is written to FILE.partial, which is renamed to FILE when it is complete. It is as of one moment,\n"
      "because it reads a snapshot. When an export to a file is interrupted, the server keeps the snapshot for half\n"
      "an hour, so that --resume can continue. With --latest, each record is as it was when the scan reached it.\n"
      "Otherwise number, bytes and content hash of the records are compared with what the store counts in the\n"
      "range at the same snapshot. FILE.manifest says what was exported. Of a cluster, name routers in --server.\n"
      "With --base64, the CSV columns are key_b64,value_b64.\n\n"
      "Examples:\n"
      "  kvadmin export -o all.jsonl\n"
      "  kvadmin export --prefix user/ -o users.csv\n"
      "  kvadmin export -o all.jsonl --resume\n"
      "  kvadmin export --prefix log/ | gzip > logs.jsonl.gz\n"
      "Exit codes: 0 exported, and the file is complete; 3 cut short; 4 the records are not what the store counts,\n"
      "or FILE.partial has changed since.");
  OnChosen(command, globals, [=] { return OfManyPartitions(Export(*globals, *o)); });
}

}  // namespace pando::admin
