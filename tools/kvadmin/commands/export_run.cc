#include "tools/kvadmin/commands/export_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/range_readers.h"

namespace pando::admin {

namespace {

constexpr std::chrono::milliseconds kLookEvery(200);  // at the progress, the snapshot and signals
constexpr uint64_t kMiB = 1 << 20;
constexpr int32_t kProbeKeys = 256;
constexpr uint32_t kGentlePageRows = 100;  // with --max-impact: a request must not delay others for long

// Routers share the work. Without a router, what was asked so far has the snapshot, so all ask that one first.
std::vector<Target> Targets(const ExportSession& session) {
  const Target& given = session.globals.target;
  std::vector<std::string> addresses;
  for (size_t begin = 0; begin <= given.address.size();) {
    const size_t end = std::min(given.address.find(',', begin), given.address.size());
    addresses.push_back(given.address.substr(begin, end - begin));
    begin = end + 1;
  }
  if (!session.routers()) addresses.insert(addresses.begin(), session.client.at());
  // With --max-impact, there is one request at a time.
  std::vector<Target> targets(session.guard ? 1 : session.options.parallel, given);
  for (Target& target : targets) {
    target.address = fmt::format("{}", fmt::join(addresses, ","));
    if (session.routers()) std::rotate(addresses.begin(), addresses.begin() + 1, addresses.end());
  }
  return targets;
}

RangeReaders::Options ReadOptions(ExportSession& session) {
  const ExportOptions& options = session.options;
  RangeReaders::Options read;
  read.encoding = options.range.encoding;
  read.style = session.style;
  read.pool = &session.pool;
  read.verify = options.verify();
  read.page_rows = static_cast<int32_t>(options.page_rows);
  read.retry_ms = int64_t{options.retry_s} * 1000;
  if (session.guard) {
    read.page_rows = static_cast<int32_t>(std::min(options.page_rows, kGentlePageRows));
    read.pace = [guard = session.guard.get()](uint64_t bytes) { return guard->Reserve(bytes); };
  }
  if (session.style.format == ExportFormat::kParquet) {
    // A part is a row group. One that is somewhat larger than it was cut for stays one.
    read.part_bytes = options.row_group_mb * kMiB;
    read.piece_bytes = 2 * read.part_bytes;
    read.piece_time = std::chrono::milliseconds(0);
    read.buffer_bytes = std::max(read.buffer_bytes, read.piece_bytes);
  } else {
    read.piece_bytes = std::min(read.piece_bytes, options.save_every_mb * kMiB);
    if (options.parallel == 1) read.part_bytes = 0;
  }
  return read;
}

Json ImpactJson(const ImpactGuard::Outcome& outcome) {
  return Json{{"p99_pausing_ms", outcome.pausing_p99_ms},
              {"p99_reading_ms", outcome.reading_p99_ms},
              {"percent", outcome.percent()},
              {"gets", outcome.probes},
              {"gets_failed", outcome.failed},
              {"least_rate_mb_s", outcome.least_rate / 1e6},
              {"most_rate_mb_s", outcome.most_rate / 1e6}};
}

void NoteImpact(double most_percent, const ImpactGuard::Outcome& outcome) {
  tools::PrintNote(
      "p99 of gets: {:.2f} ms while the export paused, {:.2f} ms while it read ({:+.1f} %, and {:.1f} % were allowed), "
      "of {} gets; the rate was between {:.0f} and {:.0f} MB/s\n",
      outcome.pausing_p99_ms, outcome.reading_p99_ms, outcome.percent(), most_percent, outcome.probes,
      outcome.least_rate / 1e6, outcome.most_rate / 1e6);
  if (!outcome.ended.empty()) {
    tools::PrintNote("the impact could not be measured to the end ({}); the rest was read at the lowest rate\n",
                     outcome.ended);
  }
  if (outcome.percent() <= most_percent) return;
  tools::PrintNote(
      "that is more than was allowed: the export was too short to find its rate, or even the lowest is too much\n");
}

}  // namespace

ExportSession::ExportSession(const Globals& g, const ExportOptions& o)
    : globals(g),
      options(o),
      style(o.style()),
      client(g.target),
      lease(&client, o.to_file() ? SnapshotLease::kResumableTtl : SnapshotLease::kWorkingTtl),
      patience(int64_t{o.retry_s} * 1000),
      progress("exporting", "records", 0, o.quiet || g.json) {}

// An interrupted export continues only at the node, or at a router of the cluster, where it began: two stores must not
// end up in one file.
Status ExportSession::Hello() {
  api::HelloRequest request;
  request.client_name = "kvadmin export";
  ASSIGN_OR_RETURN(api::HelloReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::hello, request));
  node = std::move(reply.node_id);
  return Status();
}

Status ExportSession::ChooseSnapshot(const std::string& before) {
  if (!range.snapshot.empty() || options.latest) return Status();
  if (before.empty()) {
    RETURN_IF_ERROR(lease.Open());
  } else if (Status status = lease.Adopt(before); status.code() == Code::kSnapshotGone) {
    return Error(Code::kSnapshotGone,
                 "the snapshot of this export has expired, or the server was restarted; start the export again, "
                 "without --resume");
  } else {
    RETURN_IF_ERROR(status);
  }
  range.snapshot = lease.token();
  return Status();
}

Status ExportSession::KeepSnapshot(const std::string& before) {
  if (before.empty()) return Status();
  if (lease.token().empty()) return ChooseSnapshot(before);
  return patience([&] { return lease.Keep(); });
}

void ExportSession::Discard(const std::string& snapshot) {
  if (snapshot.empty()) return;
  api::ReleaseSnapshotRequest request;
  request.snapshot = snapshot;
  (void)client.Call(Client::Repeat::kSafe, &api::KvIf::releaseSnapshot, request);
}

std::string ExportSession::Identity(const Range& of) const {
  const bool parquet = style.format == ExportFormat::kParquet;
  return fmt::format("node={} {} start={} end={} prefix={} {}{}{}", node, FormatName(style.format), HexEncode(of.start),
                     HexEncode(of.end), HexEncode(of.prefix),
                     options.latest ? "latest" : "snapshot=" + HexEncode(given_snapshot), style.base64 ? " base64" : "",
                     !parquet || style.compression == ParquetCompression::kZstd ? ""
                     : style.compression == ParquetCompression::kLz4            ? " compression=lz4"
                                                                                : " compression=none");
}

Status ExportSession::Prepare() {
  api::AggregateRequest request;
  SetRange(range, &request);
  Result<api::AggregateReply> reply =
      patience([&] { return client.Call(Client::Repeat::kSafe, &api::KvIf::aggregate, request); });
  const bool unknown = reply.status().code() == Code::kUnsupported;
  if (unknown && !options.verify()) return Status();  // then the range is one part
  if (unknown) {
    return Error(Code::kUnsupported, "{}; it is older than this kvadmin: use --no-verify", reply.status().message());
  }
  RETURN_IF_ERROR(reply.status());
  expected = {static_cast<uint64_t>(reply->count), static_cast<uint64_t>(reply->bytes),
              static_cast<uint64_t>(reply->content_hash)};
  map_version = reply->context.map_version;
  progress.SetTotal(expected.bytes);
  return options.max_impact > 0 && expected.count > 0 ? StartGuard() : Status();
}

// It gets keys from everywhere in the range.
Status ExportSession::StartGuard() {
  std::vector<std::string> keys;
  api::SplitRangeRequest split;
  SetRange(range, &split);
  split.parts = kProbeKeys;
  ASSIGN_OR_RETURN(const api::SplitRangeReply parts, client.Call(Client::Repeat::kSafe, &api::KvIf::splitRange, split));
  api::ScanRequest scan;
  SetRange(range, &scan);
  scan.keys_only = true;
  scan.limit_rows = 1;
  ASSIGN_OR_RETURN(const api::ScanReply first, client.Call(Client::Repeat::kSafe, &api::KvIf::scan, scan));
  for (const api::Row& row : first.rows) keys.push_back(row.key);
  for (size_t i = 1; i < parts.parts.size(); ++i) keys.push_back(parts.parts[i].start_key);
  if (keys.empty()) return Status();
  if (!options.quiet && !globals.json) tools::PrintNote("measuring the latency of gets before the export begins\n");
  guard = std::make_unique<ImpactGuard>(globals.target, std::move(keys), options.max_impact);
  return guard->Start();
}

Status ExportSession::CheckWhole(const RangeAggregates& wanted, const RangeAggregates& written) const {
  if (!options.verify() || written == wanted) return Status();
  const auto text = [](const RangeAggregates& sums) {
    return fmt::format("{} records, {} bytes, content hash {:016x}", sums.count, sums.bytes, sums.content_hash);
  };
  return Error(Code::kCorruption,
               "the parts that were read are not together what the store counts in the range at the same snapshot: {} "
               "came, and it counts {}. Start the export again, without --resume, and report it",
               text(written), text(wanted));
}

void ExportSession::ReportComplete(const Json& manifest, uint64_t file_bytes) const {
  const auto records = manifest.value("records", uint64_t{0});
  const bool verified = manifest.value("verified", false);
  if (globals.json) {
    PrintJson(Json{{"file", options.output},
                   {"records", records},
                   {"bytes", file_bytes},
                   {"seconds", 0.0},
                   {"verified", verified},
                   {"was_complete", true}});
  } else {
    tools::Print("{}: the export is complete already: {} records{}; nothing was read\n", options.output, records,
                 verified ? ", verified" : "");
  }
}

void ExportSession::Report(const RangeAggregates& written, uint64_t not_text, uint64_t file_bytes) {
  progress.Clear();
  const bool notes = !options.quiet && !globals.json;
  const double seconds = progress.ElapsedSeconds();
  // If the snapshot cannot be released, it expires by itself.
  if (Status released = lease.Release(); !released.ok() && !globals.json) {
    tools::PrintNote("the snapshot could not be released, and will expire: {}\n", released.message());
  }
  std::optional<ImpactGuard::Outcome> impact;
  if (guard) impact = guard->Stop();
  if (impact && notes) NoteImpact(options.max_impact, *impact);
  if (not_text > 0 && notes) {
    tools::PrintNote(
        "{} records have keys or values that are not UTF-8; they are in the CSV as they are, and kvadmin load reads "
        "them, "
        "but other programs may not: --base64 encodes them\n",
        not_text);
  }
  const std::string_view verified = options.verify() ? ", verified" : "";
  if (!options.to_file()) {
    if (notes) tools::PrintNote("{} records{}\n", written.count, verified);
  } else if (globals.json) {
    Json j{{"file", options.output},
           {"records", written.count},
           {"bytes", file_bytes},
           {"seconds", seconds},
           {"verified", options.verify()}};
    if (impact) j["impact"] = ImpactJson(*impact);
    PrintJson(j);
  } else {
    const double per_s = seconds > 0 ? 1 / seconds : 0;
    tools::Print("{}: {} records{}, {}, in {:.1f} s ({:.0f} records/s, {:.1f} MB/s of keys and values)\n",
                 options.output, written.count, verified, tools::HumanBytes(static_cast<double>(file_bytes)), seconds,
                 static_cast<double>(written.count - resumed.count) * per_s,
                 static_cast<double>(written.bytes - resumed.bytes) * per_s / 1e6);
  }
}

FileExport::FileExport(ExportSession* session, std::string output, Range part)
    : session_(session), output_(std::move(output)), range_(std::move(part)), ends_(session->style) {}

ExportFile::Position FileExport::Position() const {
  return {next_key_, session_->lease.token(), 0, sums_.count, SumsText(), ends_.Save()};
}

std::string FileExport::SumsText() const {
  return Json{
      {"count", sums_.count}, {"bytes", sums_.bytes}, {"content_hash", sums_.content_hash}, {"not_text", not_text_}}
      .dump();
}

Status FileExport::RestoreSums(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  for (const char* name : {"count", "bytes", "content_hash", "not_text"}) {
    if (json.is_object() && json.contains(name) && json[name].is_number_unsigned()) continue;
    return Error(Code::kInvalidArgument,
                 "{}.partial.state: the sums of what is written are missing; start over, without --resume", output_);
  }
  sums_ = {json["count"], json["bytes"], json["content_hash"]};
  not_text_ = json["not_text"];
  return Status();
}

Status FileExport::Open(bool resume, std::string* snapshot) {
  const ExportOptions& options = session_->options;
  ExportFile::Position position;
  Status opened = file_.Open(output_, session_->Identity(range_), resume, &position,
                             [this](const std::string& before) { return session_->KeepSnapshot(before); });
  if (!opened.ok()) {
    // Such as Ctrl-C while what was written is read: the next --resume needs the snapshot.
    if (!session_->lease.token().empty()) (void)session_->lease.Leave();
    return opened;
  }
  if (position.bytes == 0) {
    RETURN_IF_ERROR(file_.Write(ends_.Header()));
  } else {
    RETURN_IF_ERROR(RestoreSums(position.sums));
    RETURN_IF_ERROR(ends_.Restore(position.footer));
    saved_rows_ = position.rows;
    next_key_ = position.next_key;
    session_->resumed.Add(sums_);
  }
  *snapshot = position.snapshot;
  if (session_->globals.json) return Status();
  if (position.rows > 0) {
    tools::PrintNote("resuming after {} records\n", position.rows);
  } else if (resume && options.parts == 0) {
    tools::PrintNote(
        "{} to {}{}: starting from the beginning\n",
        file_.has_discarded() ? "the interrupted export" : "no interrupted export", output_,
        file_.has_discarded() ? " had saved no position, or ended before its manifest was written" : " is there");
  } else if (!options.quiet && options.to_file() && ::access(output_.c_str(), F_OK) == 0) {
    tools::PrintNote("{} exists, and is replaced when the export is complete\n", output_);
  }
  return Status();
}

Status FileExport::NoteSnapshot() {
  Status noted = saved_rows_ > 0 ? Status() : file_.NoteSnapshot(session_->lease.token());
  return noted.ok() ? noted : CutShort(std::move(noted));
}

Status FileExport::Run(const RangeAggregates& expected, bool check) {
  range_.snapshot = session_->range.snapshot;
  Status status = WriteRows(expected);
  if (status.ok() && check) {
    status = session_->CheckWhole(expected, sums_);
    has_gap_ = !status.ok();
  }
  if (!status.ok()) {
    session_->progress.Clear();
    return CutShort(std::move(status));
  }
  has_gap_ = true;
  status = file_.Write(ends_.Footer());
  if (status.ok()) status = file_.Finish(Manifest());
  if (status.ok()) return status;
  session_->progress.Clear();
  if (!file_.is_named()) return CutShort(std::move(status));
  return Error(status.code(), "{}; {} has all records, but no manifest: export it again", status.message(), output_);
}

Status FileExport::WriteRows(const RangeAggregates& expected) {
  RangeReaders::Options read = ReadOptions(*session_);
  read.range = range_;
  if (!next_key_.empty()) read.range.start = next_key_;
  read.expected = {expected.count - std::min(expected.count, sums_.count),
                   expected.bytes - std::min(expected.bytes, sums_.bytes), 0};
  RangeReaders readers(std::move(read), Targets(*session_));
  const uint64_t save_every = session_->options.save_every_mb * kMiB;
  const RangeAggregates& done = session_->done;
  uint64_t bytes_at_save = file_.bytes();
  auto shown = std::chrono::steady_clock::now();
  for (;;) {
    SnapshotLease& lease = session_->lease;
    if (!lease.token().empty()) RETURN_IF_ERROR(session_->patience([&] { return lease.Keep(); }));
    RETURN_IF_ERROR(tools::Interrupts::Check());
    ASSIGN_OR_RETURN(std::optional<RangeReaders::Piece> piece, readers.Next(kLookEvery));
    if (piece) {
      const uint64_t offset = file_.bytes();
      has_gap_ = true;
      for (FileChunk& chunk : piece->encoded.chunks) {
        RETURN_IF_ERROR(file_.Write(chunk.view()));
        session_->pool.Give(std::move(chunk.buffer));
      }
      RETURN_IF_ERROR(ends_.Wrote(piece->encoded, offset));
      has_gap_ = false;
      sums_.Add(piece->sums);
      not_text_ += piece->encoded.not_text;
      next_key_ = piece->next_key;
    }
    const uint64_t bytes = done.bytes + sums_.bytes;
    session_->progress.Update(done.count + sums_.count, bytes, bytes);
    if (piece && piece->over) return Status();
    if (const auto now = std::chrono::steady_clock::now(); now - shown >= kLookEvery) {
      RETURN_IF_ERROR(file_.WriteOut());
      shown = now;
    }
    const bool due = file_.bytes() > bytes_at_save && file_.bytes() - bytes_at_save >= save_every;
    if (!due || next_key_.empty()) continue;
    RETURN_IF_ERROR(file_.Save(Position()));
    saved_rows_ = sums_.count;
    bytes_at_save = file_.bytes();
  }
}

Status FileExport::CutShort(Status why) {
  if (!session_->options.to_file()) return why;  // the lease releases the snapshot
  if (why.code() == Code::kSnapshotGone) {
    return Error(why.code(), "{}; start the export again, without --resume", why.message());
  }
  // What was written before the part that differs was compared, and is kept.
  if (sums_.count > saved_rows_ && !next_key_.empty() && !has_gap_) {
    // If this fails (because the disk is full), an earlier position may still be there.
    Status saved = file_.Save(Position());
    if (!saved.ok() && !file_.resumable()) return Error(why.code(), "{}; nothing was kept", why.message());
    if (saved.ok()) saved_rows_ = sums_.count;
  }
  const bool parts = session_->options.parts > 0;
  if (!file_.resumable() && !parts) return Error(why.code(), "{}; nothing was exported", why.message());
  const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(SnapshotLease::kResumableTtl).count();
  const bool kept = !session_->lease.token().empty() && session_->lease.Leave().ok();
  const std::string how_long =
      kept ? fmt::format(", for {} minutes, while the server keeps the snapshot", minutes) : "";
  if (parts) {
    return Error(why.code(), "{}; {} records are in {}, and --resume continues there{}", why.message(),
                 session_->done.count + saved_rows_, session_->options.output, how_long);
  }
  return Error(why.code(), "{}; {} records are in {}.partial, and --resume continues there{}", why.message(),
               saved_rows_, output_, how_long);
}

// What FILE.manifest says (docs/FORMAT.md, "Manifest of an export").
std::string FileExport::Manifest() const {
  const ExportOptions& options = session_->options;
  Json j;
  j["pando_export"] = 1;
  j["file_bytes"] = file_.bytes();
  j["file_hash"] = file_.hash();
  j["format"] = FormatName(session_->style.format);
  j["base64"] = session_->style.base64;
  j["export"] = session_->Identity(range_);
  j["from"] = session_->node;
  for (const auto& [name, key] :
       {std::pair("start", &range_.start), {"end", &range_.end}, {"prefix", &range_.prefix}}) {
    if (!key->empty()) SetBytes(&j, name, *key);
  }
  if (session_->lease.version() != 0) j["snapshot_version"] = VersionText(session_->lease.version());
  if (session_->map_version != 0) j["map_version"] = session_->map_version;
  j["records"] = sums_.count;
  j["bytes"] = sums_.bytes;
  j["verified"] = options.verify();
  if (options.verify()) j["content_hash"] = fmt::format("{:016x}", sums_.content_hash);
  if (not_text_ > 0) j["records_not_utf8"] = not_text_;
  return j.dump(1) + "\n";
}

}  // namespace pando::admin
