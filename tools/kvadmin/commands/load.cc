// kvadmin load: stores the records of a file or of standard input.
//
// Threads: one.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "gen-cpp/pando_constants.h"
#include "src/base/limits.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/cluster_view.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/export_file.h"
#include "tools/kvadmin/input_file.h"
#include "tools/kvadmin/load_writers.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/record_reader.h"

namespace pando::admin {

namespace {

constexpr size_t kRejectsShown = 20;
constexpr size_t kRejectsInJson = 1000;

struct LoadOptions {
  std::string file = "-";
  std::optional<Format> format;
  bool skip_errors = false, quiet = false;
  uint64_t from_line = 1;
  std::string rejects_file;
  BatchWriterOptions batch;
};

int64_t UnixMs() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

// Counts and reports the records that were rejected.
class Rejects {
 public:
  Rejects(const Globals& globals, const LoadOptions& options, Progress& progress)
      : json_(globals.json), options_(options), progress_(progress) {}
  Rejects(const Rejects&) = delete;
  Rejects& operator=(const Rejects&) = delete;
  ~Rejects() {
    if (file_) std::fclose(file_);
  }
  // Overwrites nothing: the rejects of a continued load are appended to those before.
  Status Open(const InputFile& input) {
    const std::string& path = options_.rejects_file;
    if (path.empty()) return Status();
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return ErrnoError(errno, "open {}", path);
    file_ = ::fdopen(fd, "a");
    CHECK(file_) << path;
    if (input.IsSame(fd))
      return Error(Code::kInvalidArgument, "--rejects {}: this is the input; name another file", path);
    struct stat info {};
    if (::fstat(fd, &info) != 0) return ErrnoError(errno, "look at {}", path);
    if (!S_ISREG(info.st_mode) || info.st_size == 0 || options_.from_line > 1) return Status();
    return Error(Code::kAlreadyExists, "--rejects {}: the file is not empty; name another file, or move this one away",
                 path);
  }
  void Add(uint64_t line, const std::string& why) {
    ++total_;
    first_line_ = first_line_ == 0 ? line : std::min(first_line_, line);
    Json entry{{"line", line}, {"error", why}};
    const std::string text = JsonText(entry) + '\n';
    if (file_ && std::fwrite(text.data(), 1, text.size(), file_) != text.size()) Failed();
    Show(line, why, text);
    if (list_.size() < kRejectsInJson) list_.push_back(std::move(entry));
    if (options_.skip_errors || !stopped_.ok()) return;
    stopped_ = Error(Code::kAborted, "stopped at line {}: {} (to skip such records, use --on-error skip)", line, why);
  }
  // Call this after the last reject.
  Status Close() {
    if (file_ && std::fclose(std::exchange(file_, nullptr)) != 0) Failed();
    return file_status_;
  }
  uint64_t total() const { return total_; }
  uint64_t first_line() const { return first_line_; }  // 0 = none
  const Json& list() const { return list_; }
  // Not OK when a reject ended the load (without --on-error skip), or the --rejects file cannot be
  // written.
  const Status& stopped() const { return file_status_.ok() ? stopped_ : file_status_; }

 private:
  void Failed() {
    if (file_status_.ok()) file_status_ = ErrnoError(errno, "write {}", options_.rejects_file);
  }
  void Show(uint64_t line, const std::string& why, const std::string& json) {
    if (total_ > kRejectsShown + 1) return;
    progress_.Clear();
    if (json_) {
      if (total_ <= kRejectsShown) tools::WriteNote(json);
    } else if (total_ <= kRejectsShown) {
      tools::PrintNote("line {}: {}\n", line, why);
    } else {
      tools::PrintNote("further rejects are counted, but not shown{}\n",
                       file_ ? "" : "; --rejects FILE writes them all");
    }
  }

  const bool json_;
  const LoadOptions& options_;
  Progress& progress_;
  std::FILE* file_ = nullptr;
  uint64_t total_ = 0, first_line_ = 0;
  Status stopped_, file_status_;
  Json list_ = Json::array();
};

struct LoadRun {
  uint64_t expired = 0;    // records left out because they had expired
  bool absolute = false;   // the server accepts absolute expiries
  uint64_t next_line = 1;  // every record before this line was stored, had expired or was rejected
};

// Checks the limits of the server in advance, so that the reject names its line and the server does
// not refuse the whole batch.
std::string LimitError(const InputRecord& record) {
  if (record.key.empty()) return "the key is empty";
  if (record.key.size() > kMaxKeyBytes) {
    return fmt::format("the key has {} bytes; the limit is {}", record.key.size(), kMaxKeyBytes);
  }
  if (record.value.size() > kMaxValueBytes) {
    return fmt::format("the value has {} bytes; the limit is {}", record.value.size(), kMaxValueBytes);
  }
  return "";
}

// TTL_CLEAR instead of KEEP: after the load, the store holds what the file says, whatever was there
// before.
api::WriteOp ToOp(InputRecord* record, bool absolute) {
  const auto& c = api::g_pando_constants;
  api::WriteOp op;
  op.kind = c.OP_PUT;
  op.key = std::move(record->key);
  op.value = std::move(record->value);
  op.ttl_mode = c.TTL_CLEAR;
  if (record->ttl_ms > 0) {
    op.ttl_mode = c.TTL_SET;
    op.ttl_ms = record->ttl_ms;
  } else if (record->expires_at_ms > 0 && absolute) {
    op.ttl_mode = c.TTL_SET_ABSOLUTE;
    op.expires_at_ms = record->expires_at_ms;
  } else if (record->expires_at_ms > 0) {
    op.ttl_mode = c.TTL_SET;
    op.ttl_ms = std::max<int64_t>(record->expires_at_ms - UnixMs(), 1);
  }
  return op;
}

// A server without this feature accepts only relative expiries, which shift by the time that a
// batch takes to arrive.
Result<bool> TakesAbsoluteExpiry(Client& client) {
  api::HelloRequest request;
  request.client_name = "kvadmin load";
  ASSIGN_OR_RETURN(api::HelloReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::hello, request));
  return std::find(reply.features.begin(), reply.features.end(), "absolute_expiry") != reply.features.end();
}

// The partitions of the cluster that serve; nullopt: the server is alone, a router, or older than clusters.
Result<std::optional<RangeTable>> PartitionsOfCluster(Client& client) {
  Result<ClusterMap> map = MapOf(client);
  if (map.code() == Code::kInvalidArgument || map.code() == Code::kUnsupported) return std::optional<RangeTable>();
  RETURN_IF_ERROR(map.status());
  std::vector<uint32_t> serving = map->Serving();
  if (serving.size() > LoadWriters::kMaxPartitions) {
    return Error(Code::kInvalidArgument, "the cluster has {} partitions; at most {} can be loaded without a router",
                 serving.size(), LoadWriters::kMaxPartitions);
  }
  ASSIGN_OR_RETURN(RangeTable table, RangeTable::Of(map->cluster->record.partitions, std::move(serving)));
  return std::optional(std::move(table));
}

// Also returns OK when it stops at a reject that ends the load, or at a signal.
Status Feed(const LoadOptions& options, RecordReader& reader, LoadWriters& writer, Rejects& rejects, Progress& progress,
            LoadRun* run) {
  InputRecord record;
  while (rejects.stopped().ok() && tools::Interrupts::Received() == 0) {
    ASSIGN_OR_RETURN(bool any, reader.Next(&record));
    if (!any) return Status();
    if (record.line < options.from_line) continue;
    std::string wrong = record.error.empty() ? LimitError(record) : record.error;
    if (!wrong.empty()) {
      rejects.Add(record.line, wrong);
      continue;
    }
    // If the server accepts absolute expiries, its clock decides, not the clock of this machine.
    if (record.expires_at_ms > 0 && !run->absolute && record.expires_at_ms <= UnixMs()) {
      ++run->expired;
      continue;
    }
    uint64_t line = record.line;
    // Wait for the requests already sent even after a signal, so that it is known what is stored.
    tools::Interrupts::Shield shield;
    RETURN_IF_ERROR(writer.Add(ToOp(&record, run->absolute), line));
    progress.Update(writer.stored(), writer.stored_bytes(), reader.bytes_read());
  }
  return Status();
}

void Summarise(const Globals& globals, const LoadWriters& writer, const Rejects& rejects, const LoadRun& run,
               bool complete, double seconds) {
  double rate = seconds > 0 ? static_cast<double>(writer.stored()) / seconds : 0;
  if (globals.json) {
    Json j;
    j["loaded"] = writer.stored();
    j["bytes"] = writer.stored_bytes();
    j["expired"] = run.expired + writer.expired();
    j["rejected"] = rejects.total();
    j["seconds"] = seconds;
    j["records_per_s"] = rate;
    j["rejects"] = rejects.list();
    j["stopped"] = !complete;
    if (!complete) j["next_line"] = run.next_line;
    PrintJson(j);
    return;
  }
  tools::Print("loaded {} records, {} of keys and values, in {:.1f} s ({:.0f} records/s); {} rejected", writer.stored(),
               tools::HumanBytes(static_cast<double>(writer.stored_bytes())), seconds, rate, rejects.total());
  if (const uint64_t expired = run.expired + writer.expired(); expired > 0) tools::Print("; {} had expired", expired);
  tools::Print("\n");
  if (!complete) {
    tools::PrintNote("all records before line {} are settled; continue with --from-line {}\n", run.next_line,
                     run.next_line);
  }
}

Result<ExitCode> Load(const Globals& globals, const LoadOptions& options) {
  // First, because the client installs the signal handlers that make reading interruptible.
  Client client(globals.target);
  if (!options.format && options.file.ends_with(".parquet")) {
    return Error(Code::kInvalidArgument, "{}: load reads JSON lines and CSV, not Parquet", options.file);
  }
  RETURN_IF_ERROR(CheckAgainstManifest(options.file));
  ASSIGN_OR_RETURN(std::unique_ptr<InputFile> input, InputFile::Open(options.file));
  auto reader = MakeRecordReader(options.format.value_or(FormatOfFile(options.file)), input->stream());
  Progress progress("loading", "records", input->size_bytes(), options.quiet || globals.json);
  Rejects rejects(globals, options, progress);
  RETURN_IF_ERROR(rejects.Open(*input));
  LoadRun run;
  // Before the connection carries batches.
  ASSIGN_OR_RETURN(run.absolute, TakesAbsoluteExpiry(client));
  ASSIGN_OR_RETURN(std::optional<RangeTable> partitions, PartitionsOfCluster(client));
  LoadWriters writer(client, std::move(partitions), options.batch,
                     [&](uint64_t line, const std::string& why) { rejects.Add(line, why); });
  Status fed = Feed(options, *reader, writer, rejects, progress, &run);
  // After a failed read, wait for the batches that were sent, so that their outcome is known. After
  // a failed write there is no server left to answer.
  const bool may_write = fed.ok() || !input->status().ok();
  if (may_write) {
    tools::Interrupts::Shield shield;
    Status finished = writer.Finish();
    if (fed.ok() || !finished.ok()) fed = std::move(finished);
  }
  if (!fed.ok()) {
    tools::Interrupts::Shield shield;
    writer.Collect();
  }
  if (!input->status().ok()) fed = input->status();  // the stream itself cannot say why it failed
  if (fed.ok() && tools::Interrupts::Received() != 0 && rejects.stopped().ok()) {
    fed = Error(Code::kAborted, "interrupted by SIG{}", sigabbrev_np(tools::Interrupts::Received()));
  }
  progress.Clear();
  Status closed = rejects.Close();
  const uint64_t unsettled = writer.first_unsettled_line();
  run.next_line = unsettled != 0 ? unsettled : reader->lines_read() + 1;
  if (!rejects.stopped().ok() && rejects.first_line() != 0)
    run.next_line = std::min(run.next_line, rejects.first_line());
  Summarise(globals, writer, rejects, run, fed.ok() && rejects.stopped().ok(), progress.ElapsedSeconds());
  RETURN_IF_ERROR(fed);
  RETURN_IF_ERROR(closed);
  if (!rejects.stopped().ok()) ReportError(globals, rejects.stopped());
  return rejects.total() > 0 ? kExitRejected : kExitOk;
}

}  // namespace

void AddLoadCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<LoadOptions>();
  tools::Command command = app.Add("load", "Store the records of a file");
  command.Text("file", &o->file, "The file to read, JSON lines or CSV; - is standard input").ShowDefault();
  command.Choice(
      "--format", {"jsonl", "csv"},
      [o](const std::string& f) { o->format = f == "csv" ? Format::kCsv : Format::kJsonLines; },
      "jsonl or csv; default: by the name of the file, else jsonl");
  command.Choice(
      "--on-error", {"stop", "skip"}, [o](const std::string& f) { o->skip_errors = f == "skip"; },
      "What to do after a rejected record: stop (default) or skip");
  command.Text("--rejects", &o->rejects_file,
               "Write the line number and the reason of every reject to this file: new or empty, except that "
               "--from-line appends to it");
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command
      .Number("--from-line", &o->from_line,
              "Skip the records before this line, which an interrupted load of the same file printed", 1)
      .ShowDefault();
  command.Number("--batch-ops", &o->batch.batch_ops, "Records per request", 1, kMaxBatchOps).ShowDefault();
  command.Number("--window", &o->batch.window, "Requests in progress", 1, 64).ShowDefault();
  command.Footer(
      "A JSON line is {\"key\": \"...\", \"value\": \"...\"}. Bytes that are not UTF-8 are given as \"key_b64\"\n"
      "and \"value_b64\". \"ttl_ms\" or \"expires_at_ms\" is optional. CSV has a header line with the same names.\n"
      "If a key occurs twice, the later record wins. Only wrong records are rejected, and each is reported with its\n"
      "line. If there is a FILE.manifest, of kvadmin export, the file must still be what it says.\n"
      "An interrupted load waits for the requests that it has sent, and prints the line to continue from.\n\n"
      "Examples:\n"
      "  kvadmin load packages.jsonl\n"
      "  kvadmin load users.csv --on-error skip --rejects bad-lines.jsonl\n"
      "  zcat dump.jsonl.gz | kvadmin load -\n"
      "Exit codes: 0 all stored; 2 the input is a directory or has no header; 3 cut short; 4 the\n"
      "file is not what its manifest says; 6 records were rejected.");
  OnChosen(command, globals, [=] { return Load(*globals, *o); });
}

}  // namespace pando::admin
