// kvadmin export: writes the records of a range to a file, or to several in a directory, in key order.
//
// Threads: one, and those of export_run.h.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <utility>
#include <vector>

#include "src/base/limits.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/commands/export_run.h"
#include "tools/kvadmin/durable.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;

Result<ExitCode> ExportToFile(ExportSession* session) {
  std::string snapshot;
  FileExport file(session, session->options.output, session->range);
  if (session->options.resume) {
    ASSIGN_OR_RETURN(const Json complete, file.FindComplete());
    if (!complete.is_null()) {
      session->ReportComplete(complete, complete.value("file_bytes", uint64_t{0}));
      return kExitOk;
    }
  }
  RETURN_IF_ERROR(file.Open(session->options.resume, &snapshot));
  session->Discard(file.discarded_snapshot());
  RETURN_IF_ERROR(session->ChooseSnapshot(snapshot));
  RETURN_IF_ERROR(file.NoteSnapshot());
  if (Status status = session->Prepare(); !status.ok()) return file.CutShort(std::move(status));
  RETURN_IF_ERROR(file.Run(session->expected, /*check=*/true));
  session->Report(file.sums(), file.not_text(), file.file_bytes());
  return kExitOk;
}

// -- --parts: a directory with one file for each part of the range. Until the export is complete, kPlan says which
// parts there are; after that, kPartsManifest says what is in the files.

constexpr const char* kPlan = "export.plan";
constexpr const char* kPartsManifest = "manifest.json";

struct PartsPlan {
  struct Part {
    std::string start, end;
    uint64_t count = 0, bytes = 0;
  };
  std::string identity, snapshot;
  std::vector<Part> parts;
};

std::string PlanText(const PartsPlan& plan) {
  Json j{{"pando_export_parts", 1}, {"export", plan.identity}, {"snapshot_b64", Base64Encode(plan.snapshot)}};
  j["parts"] = Json::array();
  for (const PartsPlan::Part& part : plan.parts) {
    j["parts"].push_back(Json{{"start_b64", Base64Encode(part.start)},
                              {"end_b64", Base64Encode(part.end)},
                              {"count", part.count},
                              {"bytes", part.bytes}});
  }
  return j.dump(1) + "\n";
}

Result<Json> ReadJson(const fs::path& path) {
  std::ifstream in(path);
  Json json = Json::parse(in, nullptr, false);
  if (!in && !in.eof()) return Error(Code::kIoError, "{}: cannot be read", path.string());
  if (!json.is_object()) return Error(Code::kInvalidArgument, "{}: this is not of an export", path.string());
  return json;
}

Result<PartsPlan> ReadPlan(const fs::path& path) {
  ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  PartsPlan plan;
  try {
    plan.identity = json.at("export").get<std::string>();
    ASSIGN_OR_RETURN(plan.snapshot, Base64Decode(json.at("snapshot_b64").get<std::string>()));
    for (const Json& part : json.at("parts")) {
      PartsPlan::Part& read = plan.parts.emplace_back();
      ASSIGN_OR_RETURN(read.start, Base64Decode(part.at("start_b64").get<std::string>()));
      ASSIGN_OR_RETURN(read.end, Base64Decode(part.at("end_b64").get<std::string>()));
      read.count = part.at("count").get<uint64_t>();
      read.bytes = part.at("bytes").get<uint64_t>();
    }
  } catch (const Json::exception& e) {
    return Error(Code::kInvalidArgument, "{}: this is not the plan of an export: {}", path.string(), e.what());
  }
  return plan;
}

// Whether an export with --parts gives this name to a file, also to one that it has not completed.
bool IsOfParts(const std::string& name) {
  static const std::regex kNames(R"((export\.plan|manifest\.json)(\.tmp-[0-9]+)?|part-[0-9]{5,}\.(jsonl|csv|parquet))"
                                 R"((\.partial(\.state(\.next)?)?|\.manifest(\.tmp-[0-9]+)?)?)");
  return std::regex_match(name, kNames);
}

// All parts of an export in a directory, which is locked meanwhile.
class PartsExport {
 public:
  explicit PartsExport(ExportSession* session)
      : session_(session), directory_(session->options.output), plan_path_(directory_ / kPlan) {}
  ~PartsExport() {
    if (lock_ >= 0) ::close(lock_);
  }

  Result<ExitCode> Run() {
    RETURN_IF_ERROR(Enter());
    std::error_code error;
    if (fs::exists(directory_ / kPartsManifest, error)) return Complete();
    Status status = Write();
    // For --resume. A part that was cut short has done that itself.
    if (!status.ok() && fs::exists(plan_path_, error)) (void)session_->lease.Leave();
    RETURN_IF_ERROR(status);
    session_->Report(session_->done, not_text_, file_bytes_);
    return kExitOk;
  }

 private:
  Status Write() {
    RETURN_IF_ERROR(Begin());
    files_ = Json::array();
    for (size_t i = 0; i < plan_.parts.size(); ++i) RETURN_IF_ERROR(RunPart(i));
    RETURN_IF_ERROR(session_->CheckWhole(session_->expected, session_->done));
    RETURN_IF_ERROR(WriteDurably(directory_ / kPartsManifest, Manifest(), /*replace=*/true));
    std::error_code ignored;
    fs::remove(plan_path_, ignored);
    return Status();
  }

  std::string Identity() const {
    return fmt::format("{} parts={}", session_->Identity(session_->range), session_->options.parts);
  }

  Status Enter() {
    std::error_code error;
    const std::string name = directory_.string();
    if (fs::exists(directory_, error) && !fs::is_directory(directory_, error)) {
      return Error(Code::kAlreadyExists, "{}: is not a directory, and --parts writes a directory; choose another name",
                   name);
    }
    if (!fs::exists(directory_, error) && fs::is_symlink(fs::symlink_status(directory_, error))) {
      return Error(Code::kAlreadyExists, "{}: is a symbolic link to nothing; create its target, or choose another name",
                   name);
    }
    fs::create_directory(directory_, error);
    if (error) return Error(Code::kIoError, "{}: {}", name, error.message());
    ASSIGN_OR_RETURN(lock_, LockDirectory(name));
    return Status();
  }

  // There is a manifest, so there is a whole export.
  Result<ExitCode> Complete() {
    if (!session_->options.resume) {
      return Error(Code::kAlreadyExists, "{}: holds a complete export, as {} says; choose another directory",
                   directory_.string(), kPartsManifest);
    }
    ASSIGN_OR_RETURN(const Json manifest, ReadJson(directory_ / kPartsManifest));
    const std::string there = manifest.value("export", std::string()), here = Identity();
    if (there != here) {
      return Error(Code::kInvalidArgument, "{}: holds a complete export, and another one{}. Choose another directory",
                   directory_.string(),
                   there.empty() ? ", of an earlier version" : ": " + ExportDifference(there, here));
    }
    for (const Json& file : manifest.value("files", Json::array())) {
      const fs::path path = directory_ / file.value("file", std::string());
      std::error_code error;
      if (!fs::exists(path, error)) {
        return Error(Code::kCorruption, "{}: is gone, and {} names it: export to another directory", path.string(),
                     kPartsManifest);
      }
      RETURN_IF_ERROR(CheckAgainstManifest(path));
      file_bytes_ += file.value("file_bytes", uint64_t{0});
    }
    if (const Result<PartsPlan> plan = ReadPlan(plan_path_); plan.ok()) {  // a kill has left it, and its snapshot
      session_->Discard(plan->snapshot);
      std::error_code ignored;
      fs::remove(plan_path_, ignored);
    }
    session_->ReportComplete(manifest, file_bytes_);
    return kExitOk;
  }

  // Removes what an interrupted export has left, the plan last, so that a kill meanwhile leaves an interrupted export.
  Status BeginAnew() {
    std::error_code error;
    std::vector<fs::path> left;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
      if (!IsOfParts(entry.path().filename().string())) {
        return Error(Code::kAlreadyExists, "{}: is not of the export that was interrupted there; move it away",
                     entry.path().string());
      }
      if (entry.path() != plan_path_) left.push_back(entry.path());
    }
    if (error) return Error(Code::kIoError, "list {}: {}", directory_.string(), error.message());
    const Result<PartsPlan> plan = ReadPlan(plan_path_);
    if (plan.ok()) session_->Discard(plan->snapshot);
    left.push_back(plan_path_);
    for (const fs::path& path : left) {
      fs::remove(path, error);
      if (error) return Error(Code::kIoError, "remove {}: {}", path.string(), error.message());
    }
    return SyncPath(directory_.string());
  }

  Status Begin() {
    std::error_code error;
    const bool resume = session_->options.resume, found = fs::exists(plan_path_, error), planned = found && resume;
    if (found && !resume) {
      RETURN_IF_ERROR(BeginAnew());
      Note("the interrupted export in {} was removed: starting from the beginning");
    } else if (!found && !fs::is_empty(directory_, error)) {
      return Error(Code::kAlreadyExists, "{}: is not empty; choose another directory", directory_.string());
    } else if (!found && resume) {
      Note("no interrupted export in {} is there: starting from the beginning");
    }
    const std::string identity = Identity();
    if (planned) {
      ASSIGN_OR_RETURN(plan_, ReadPlan(plan_path_));
      if (plan_.identity != identity) {
        const std::string difference = ExportDifference(plan_.identity, identity);
        return Error(Code::kInvalidArgument,
                     "{}: this is of another export: {}. Continue it as it was begun, or start over, without --resume",
                     plan_path_.string(), difference);
      }
    }
    RETURN_IF_ERROR(session_->ChooseSnapshot(plan_.snapshot));
    RETURN_IF_ERROR(session_->Prepare());
    if (planned) return Status();
    plan_.identity = identity;
    plan_.snapshot = session_->lease.token();
    return MakePlan();
  }

  void Note(fmt::format_string<std::string> text) const {
    if (!session_->globals.json) tools::PrintNote("{}\n", fmt::format(text, directory_.string()));
  }

  Status MakePlan() {
    api::SplitRangeRequest request;
    SetRange(session_->range, &request);
    request.parts = session_->options.parts;
    ASSIGN_OR_RETURN(const api::SplitRangeReply reply, session_->patience([&] {
      return session_->client.Call(Client::Repeat::kSafe, &api::KvIf::splitRange, request);
    }));
    for (const api::RangePart& part : reply.parts) {
      plan_.parts.push_back(
          {part.start_key, part.end_key, static_cast<uint64_t>(part.count), static_cast<uint64_t>(part.bytes)});
    }
    if (plan_.parts.empty()) plan_.parts.emplace_back();
    plan_.parts.front().start = session_->range.start;
    plan_.parts.back().end = session_->range.end;
    return WriteDurably(plan_path_, PlanText(plan_), /*replace=*/true);
  }

  Status RunPart(size_t number) {
    const PartsPlan::Part& part = plan_.parts[number];
    const std::string name = fmt::format("part-{:05}.{}", number, FormatName(session_->style.format));
    const fs::path path = directory_ / name;
    std::error_code error;
    Json manifest;
    // A part that is complete has its name and its manifest.
    if (fs::exists(path, error) && fs::exists(path.string() + ".manifest", error)) {
      RETURN_IF_ERROR(CheckAgainstManifest(path, [this] { return session_->KeepSnapshot(plan_.snapshot); }));
      ASSIGN_OR_RETURN(manifest, ReadJson(path.string() + ".manifest"));
      session_->resumed.Add(SumsOf(manifest));
    } else {
      Range range = session_->range;
      range.start = part.start;
      range.end = part.end;
      std::string snapshot;
      FileExport file(session_, path, std::move(range));
      RETURN_IF_ERROR(file.Open(session_->options.resume, &snapshot));
      RETURN_IF_ERROR(file.Run({part.count, part.bytes, 0}, /*check=*/false));
      manifest = Json::parse(file.Manifest());
    }
    session_->done.Add(SumsOf(manifest));
    not_text_ += manifest.value("records_not_utf8", uint64_t{0});
    file_bytes_ += manifest.value("file_bytes", uint64_t{0});
    Json file;
    file["file"] = name;
    for (const char* field :
         {"start", "start_b64", "end", "end_b64", "records", "bytes", "content_hash", "file_bytes", "file_hash"}) {
      if (manifest.contains(field)) file[field] = manifest[field];
    }
    files_.push_back(std::move(file));
    return Status();
  }

  static RangeAggregates SumsOf(const Json& manifest) {
    RangeAggregates sums{manifest.value("records", uint64_t{0}), manifest.value("bytes", uint64_t{0}), 0};
    std::istringstream(manifest.value("content_hash", std::string("0"))) >> std::hex >> sums.content_hash;
    return sums;
  }

  std::string Manifest() const {
    Json j;
    j["pando_export_parts"] = 1;
    j["format"] = FormatName(session_->style.format);
    j["base64"] = session_->style.base64;
    j["export"] = Identity();
    j["from"] = session_->node;
    const Range& range = session_->range;
    for (const auto& [name, key] : {std::pair("start", &range.start), {"end", &range.end}, {"prefix", &range.prefix}}) {
      if (!key->empty()) SetBytes(&j, name, *key);
    }
    if (session_->lease.version() != 0) j["snapshot_version"] = VersionText(session_->lease.version());
    if (session_->map_version != 0) j["map_version"] = session_->map_version;
    j["records"] = session_->done.count;
    j["bytes"] = session_->done.bytes;
    j["verified"] = session_->options.verify();
    if (session_->options.verify()) j["content_hash"] = fmt::format("{:016x}", session_->done.content_hash);
    j["files"] = files_;
    return j.dump(1) + "\n";
  }

  ExportSession* const session_;
  const fs::path directory_, plan_path_;
  int lock_ = -1;  // of the directory
  PartsPlan plan_;
  Json files_;
  uint64_t not_text_ = 0, file_bytes_ = 0;
};

// Options that would be ignored beside others.
Status CheckOptions(const ExportOptions& options) {
  if (options.latest && !options.range.snapshot.empty()) {
    return Error(Code::kInvalidArgument, "--latest and --snapshot exclude each other: the latest records are of none");
  }
  if (options.style().format == ExportFormat::kParquet) return Status();
  const char* option = options.compression_given ? "--compression"
                       : options.row_group_given ? "--row-group-mb"
                                                 : nullptr;
  if (option == nullptr) return Status();
  return Error(Code::kInvalidArgument, "{} means nothing for {}: it is of --format parquet", option,
               FormatName(options.style().format));
}

Result<ExitCode> Export(const Globals& globals, ExportOptions options) {
  RETURN_IF_ERROR(CheckOptions(options));
  if (options.resume && !options.to_file()) {
    return Error(Code::kInvalidArgument, "--resume needs an output file (-o)");
  }
  if (options.parts > 0 && !options.to_file()) return Error(Code::kInvalidArgument, "--parts needs a directory (-o)");
  if (options.range.snapshot == "now") options.range.snapshot.clear();  // a new one is the default
  ExportSession session(globals, options);
  ASSIGN_OR_RETURN(session.range, BuildRange(options.range));
  session.given_snapshot = session.range.snapshot;
  RETURN_IF_ERROR(session.Hello());
  return options.parts > 0 ? PartsExport(&session).Run() : ExportToFile(&session);
}

void AddReadOptions(tools::Command command, const std::shared_ptr<ExportOptions>& o) {
  command
      .Number("--parallel", &o->parallel, "So many parts of the range are read at the same time, by own connections", 1,
              64)
      .ShowDefault();
  command.Number("--max-impact", &o->max_impact,
                 "Read so slowly that the 99th percentile of gets becomes at most so many percent worse", 1, 1000);
  command.Flag("--latest", &o->latest, "Read the latest records instead of a snapshot");
  command.Flag("--no-verify", &o->no_verify, "Do not compare the records with what the store counts in the range");
  command.Number("--retry-s", &o->retry_s, "Repeat a request for so long while a node or a router is away", 0, 86400)
      .ShowDefault();
  command.Number("--page-rows", &o->page_rows, "Rows per request", 1, kMaxScanRows).ShowDefault();
}

// Returns --row-group-mb.
tools::Option AddFileOptions(tools::Command command, const std::shared_ptr<ExportOptions>& o) {
  command.Text("-o,--output", &o->output, "The file to write; - is standard output").ShowDefault().NotEmpty();
  command.Choice(
      "--format", {"jsonl", "csv", "parquet"}, [o](const std::string& f) { o->format = FormatNamed(f); },
      "jsonl, csv or parquet; default: by the name of the file, else jsonl");
  command.Choice(
      "--compression", {"zstd", "lz4", "none"},
      [o](const std::string& c) {
        o->compression_given = true;
        o->compression = c == "none"  ? ParquetCompression::kNone
                         : c == "lz4" ? ParquetCompression::kLz4
                                      : ParquetCompression::kZstd;
      },
      "Of the pages of a Parquet file: zstd (the default), lz4 (faster, and larger) or none (fastest)");
  tools::Option row_group = command.Number("--row-group-mb", &o->row_group_mb,
                                           "About so many MiB of keys and values in a row group of Parquet", 1, 256);
  row_group.ShowDefault();
  command.Number("--parts", &o->parts,
                 "Write at most so many files, each with a part of the range, into the directory -o", 2, 256);
  command.Flag(
      "--resume", &o->resume,
      "Continue an interrupted export of the same range of the same node or cluster to the same file. One that is "
      "complete stays as it is");
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command.Number("--save-every-mb", &o->save_every_mb, "Save the position for --resume every so many MiB", 0, 1'000'000)
      .ShowDefault();
  return row_group;
}

}  // namespace

void AddExportCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<ExportOptions>();
  tools::Command command =
      app.Add("export", "Write the records of a range, or of the whole store, as JSON lines, CSV or Parquet");
  AddRangeOptions(command, &o->range);
  const tools::Option row_group = AddFileOptions(command, o);
  AddReadOptions(command, o);
  command.Footer(
      "The export is written to FILE.partial, which is renamed to FILE when it is complete. It is as of one moment,\n"
      "because it reads a snapshot (--snapshot now, the default, opens one). When an export to a file is interrupted,\n"
      "the server keeps the snapshot for ten minutes, so that --resume can continue. With --latest, each record is\n"
      "as it was when the scan reached it. Otherwise number, bytes and content hash of the records are compared with\n"
      "what the store counts in the range at the same snapshot. FILE.manifest says what was exported. Of a cluster,\n"
      "name routers in --server. With --base64, the first CSV columns are key_b64,value_b64; --hex is only how "
      "--start,\n"
      "--end and --prefix are read. kvadmin load reads JSON lines and CSV. With --parts, DIRECTORY/manifest.json\n"
      "appears when all files are complete. With --resume, an export that is complete already is left as it is.\n\n"
      "Examples:\n"
      "  kvadmin export -o all.jsonl\n"
      "  kvadmin export --prefix user/ -o users.csv\n"
      "  kvadmin export --prefix orders/ -o orders.parquet --parallel 8\n"
      "  kvadmin export --parts 16 --format parquet -o /data/monday\n"
      "  kvadmin export -o all.jsonl --resume\n"
      "  kvadmin export --prefix log/ | gzip > logs.jsonl.gz\n"
      "Exit codes: 0 exported, and the file is complete; 2 wrong options, or --resume of another export; 3 cut short;\n"
      "4 the records are not what the store counts, or FILE or FILE.partial has changed since; 5 another kvadmin is\n"
      "exporting to it.");
  OnChosen(command, globals, [=] {
    o->row_group_given = row_group.given();
    return OfManyPartitions(Export(*globals, *o));
  });
}

}  // namespace pando::admin
