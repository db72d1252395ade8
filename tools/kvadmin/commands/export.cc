// kvadmin export: the records of a range into a file, in key order.
#include <csv.h>
#include <fmt/format.h>

#include <cstdio>

#include "src/base/limits.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/export_file.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/record_reader.h"
#include "tools/kvadmin/snapshot_lease.h"

namespace pando::admin {

namespace {

struct ExportOptions {
  RangeOptions range;
  Encoding encoding = Encoding::kText;  // of the range; and, base64, of CSV columns
  std::string output = "-";
  std::optional<Format> format;
  bool resume = false, quiet = false, latest = false;
  int32_t page_rows = 2000;
  uint64_t save_every_mb = 64;
};

std::string CsvField(std::string_view bytes) {
  std::string out(2 * bytes.size() + 2, '\0');  // every byte may be a doubled quote
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
  api::CountReply reply;
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.count(reply, context, request);
  }));
  return reply.count;
}

// The snapshot that the export reads: the one it was told to, the one that it had before it was cut short, or its own.
Status ChooseSnapshot(const ExportOptions& options, const ExportFile::Position& position, Range* range,
                      SnapshotLease* lease) {
  if (!range->snapshot.empty() || options.latest) return Status();
  if (position.snapshot.empty()) {
    RETURN_IF_ERROR(lease->Open());
  } else if (Status status = lease->Adopt(position.snapshot); status.code() == Code::kSnapshotGone) {
    return Error(Code::kSnapshotGone,
                 "the snapshot that this export reads has expired, or the server was restarted: start the export anew, "
                 "without --resume");
  } else {
    RETURN_IF_ERROR(status);
  }
  range->snapshot = lease->token();
  return Status();
}

std::string Identity(const ExportOptions& options, const Range& range, Format format) {
  return fmt::format("{} start={} end={} prefix={} {}{}", format == Format::kCsv ? "csv" : "jsonl",
                     HexEncode(range.start), HexEncode(range.end), HexEncode(range.prefix),
                     options.latest ? "latest" : "snapshot=" + HexEncode(range.snapshot),
                     options.encoding == Encoding::kBase64 ? " base64" : "");
}

Result<ExitCode> Export(const Globals& globals, const ExportOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range, options.encoding));
  if (options.resume && options.output == "-") {
    return Error(Code::kInvalidArgument, "--resume needs an output file (-o)");
  }
  const Format format = options.format.value_or(FormatOfFile(options.output));
  RowWriter writer(format, options.encoding == Encoding::kBase64);
  ExportFile file;
  ExportFile::Position position;
  RETURN_IF_ERROR(file.Open(options.output, Identity(options, range, format), options.resume, &position));
  if (position.bytes == 0) RETURN_IF_ERROR(file.Write(writer.Header()));
  if (position.rows > 0) fmt::print(stderr, "resuming behind {} rows\n", position.rows);

  Client client(globals.target);
  SnapshotLease lease(&client);
  RETURN_IF_ERROR(ChooseSnapshot(options, position, &range, &lease));
  ASSIGN_OR_RETURN(int64_t expected, CountRange(client, range));
  const uint64_t left =
      static_cast<uint64_t>(expected) > position.rows ? static_cast<uint64_t>(expected) - position.rows : 0;
  Progress progress("exporting", "records", left, options.quiet);
  api::ScanRequest request;
  SetRange(range, &request);
  request.limit_rows = options.page_rows;
  request.cursor = position.cursor;
  uint64_t rows = 0, bytes_at_save = file.bytes();
  std::string out;
  do {
    if (!lease.token().empty()) RETURN_IF_ERROR(lease.Keep());
    api::ScanReply reply;
    RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
      kv.scan(reply, context, request);
    }));
    out.clear();
    for (const api::Row& row : reply.rows) {
      writer.Append(row, &out);
      ++rows;
      progress.Update(rows, file.bytes(), rows);
    }
    RETURN_IF_ERROR(file.Write(out));
    request.cursor = reply.cursor;
    if (file.bytes() - bytes_at_save >= options.save_every_mb << 20 && !request.cursor.empty()) {
      RETURN_IF_ERROR(file.Save({request.cursor, lease.token(), 0, position.rows + rows}));
      bytes_at_save = file.bytes();
    }
  } while (!request.cursor.empty());
  RETURN_IF_ERROR(file.Finish());
  RETURN_IF_ERROR(lease.Release());
  progress.Clear();

  const double seconds = progress.ElapsedSeconds();
  const uint64_t total = position.rows + rows;
  if (options.output == "-") {
    if (!options.quiet) fmt::print(stderr, "{} records\n", total);
  } else if (globals.json) {
    PrintJson(Json{{"file", options.output}, {"records", total}, {"bytes", file.bytes()}, {"seconds", seconds}});
  } else {
    fmt::print("{}: {} records, {}, in {:.1f} s ({:.0f} records/s)\n", options.output, total,
               tools::HumanBytes(static_cast<double>(file.bytes())), seconds,
               seconds > 0 ? static_cast<double>(rows) / seconds : 0);
  }
  return kExitOk;
}

}  // namespace

void AddExportCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "Write the records of a range, or all, to a file that load reads");
  AddRangeOptions(command, &o->range);
  AddEncodingOptions(command, &o->encoding);
  command->add_option("-o,--output", o->output, "The file; - is standard output")->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--format", [o](const std::string& f) { o->format = f == "csv" ? Format::kCsv : Format::kJsonLines; },
          "jsonl or csv; default: by the file's name, else jsonl")
      ->check(CLI::IsMember({"jsonl", "csv"}));
  command->add_flag("--resume", o->resume, "Go on where an export of the same range to the same file was cut short");
  command->add_flag("--latest", o->latest, "Read the newest state all along, not a snapshot");
  command->add_flag("-q,--quiet", o->quiet, "No progress");
  command->add_option(Spell("--page-rows"), o->page_rows, "Rows asked for at once")
      ->capture_default_str()
      ->check(CLI::Range(1, static_cast<int>(kMaxScanRows)));
  command->add_option(Spell("--save-every-mb"), o->save_every_mb, "Remember the position for --resume so often")
      ->capture_default_str();
  command->footer(
      "The file appears under its name only when it is complete; until then it is FILE.partial. It is a snapshot of\n"
      "one moment, which the server keeps until half an hour after the export was cut short; with --latest each record "
      "is\n"
      "as it was when the scan came to it. With --base64 CSV columns are key_b64,value_b64.\n\n"
      "Examples:\n"
      "  kvadmin export -o all.jsonl\n"
      "  kvadmin export --prefix user/ -o users.csv\n"
      "  kvadmin export -o all.jsonl --resume\n"
      "  kvadmin export --prefix log/ | gzip > logs.jsonl.gz");
  OnChosen(command, globals, [=] { return Export(*globals, *o); });
}

}  // namespace pando::admin
