// kvadmin load: records from a file or standard input into the store.
#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "gen-cpp/pando_constants.h"
#include "src/base/limits.h"
#include "tools/common/table.h"
#include "tools/kvadmin/batch_writer.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/record_reader.h"

namespace pando::admin {

namespace {

constexpr size_t kRejectsShown = 20;
constexpr size_t kRejectsInJson = 1000;
constexpr size_t kInputBufferBytes = 1u << 20;

struct LoadOptions {
  std::string file = "-";
  std::optional<Format> format;
  bool skip_errors = false, quiet = false;
  std::string rejects_file;
  BatchWriterOptions batch;
};

int64_t UnixMs() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

// Counts and names what was not stored.
class Rejects {
 public:
  Rejects(const LoadOptions& options, Progress& progress) : options_(options), progress_(progress) {}
  ~Rejects() {
    if (file_) std::fclose(file_);
  }
  Status Open() {
    if (options_.rejects_file.empty()) return Status();
    file_ = std::fopen(options_.rejects_file.c_str(), "w");
    return file_ ? Status() : ErrnoError(errno, "open {}", options_.rejects_file);
  }
  Status Add(uint64_t line, const std::string& why) {
    ++total_;
    Json entry{{"line", line}, {"error", why}};
    if (total_ <= kRejectsShown) {
      progress_.Clear();
      fmt::print(stderr, "line {}: {}\n", line, why);
    } else if (total_ == kRejectsShown + 1) {
      progress_.Clear();
      fmt::print(stderr, "further rejects are counted only{}\n", file_ ? "" : "; --rejects FILE names them all");
    }
    if (file_) fmt::print(file_, "{}\n", entry.dump(-1, ' ', false, Json::error_handler_t::replace));
    if (list_.size() < kRejectsInJson) list_.push_back(std::move(entry));
    if (options_.skip_errors) return Status();
    return Error(Code::kAborted, "stopped at line {}: {} (--on-error skip goes on behind such lines)", line, why);
  }
  uint64_t total() const { return total_; }
  const Json& list() const { return list_; }

 private:
  const LoadOptions& options_;
  Progress& progress_;
  std::FILE* file_ = nullptr;
  uint64_t total_ = 0;
  Json list_ = Json::array();
};

struct LoadRun {
  uint64_t expired = 0;
  Status stopped;  // at a reject, with --on-error stop
};

// Checks what the server would refuse, so that the reject names its line and costs nobody else's batch.
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

// TTL_CLEAR, not KEEP: afterwards the store holds what the file says, whatever was there.
api::WriteOp ToOp(InputRecord* record, int64_t now_ms) {
  const auto& c = api::g_pando_constants;
  api::WriteOp op;
  op.kind = c.OP_PUT;
  op.key = std::move(record->key);
  op.value = std::move(record->value);
  int64_t ttl_ms = record->ttl_ms > 0 ? record->ttl_ms : record->expires_at_ms > 0 ? record->expires_at_ms - now_ms : 0;
  op.ttl_mode = ttl_ms > 0 ? c.TTL_SET : c.TTL_CLEAR;
  op.ttl_ms = ttl_ms;
  return op;
}

Status Feed(RecordReader& reader, BatchWriter& writer, Rejects& rejects, Progress& progress, LoadRun* run) {
  InputRecord record;
  for (;;) {
    ASSIGN_OR_RETURN(bool any, reader.Next(&record));
    if (!any) return Status();
    std::string wrong = record.error.empty() ? LimitError(record) : record.error;
    if (!wrong.empty()) {
      run->stopped = rejects.Add(record.line, wrong);
      if (!run->stopped.ok()) return Status();
      continue;
    }
    int64_t now_ms = record.expires_at_ms > 0 ? UnixMs() : 0;
    if (record.expires_at_ms > 0 && record.expires_at_ms <= now_ms) {
      ++run->expired;
      continue;
    }
    uint64_t line = record.line;
    RETURN_IF_ERROR(writer.Add(ToOp(&record, now_ms), line));
    progress.Update(writer.stored(), writer.stored_bytes(), reader.bytes_read());
  }
}

ExitCode Summarise(const Globals& globals, const BatchWriter& writer, const Rejects& rejects, const LoadRun& run,
                   double seconds) {
  double rate = seconds > 0 ? static_cast<double>(writer.stored()) / seconds : 0;
  if (globals.json) {
    Json j;
    j["loaded"] = writer.stored();
    j["bytes"] = writer.stored_bytes();
    j["expired"] = run.expired;
    j["rejected"] = rejects.total();
    j["seconds"] = seconds;
    j["records_per_s"] = rate;
    j["rejects"] = rejects.list();
    j["stopped"] = !run.stopped.ok();
    PrintJson(j);
  } else {
    fmt::print("loaded {} records, {} of keys and values, in {:.1f} s ({:.0f} records/s); {} rejected", writer.stored(),
               tools::HumanBytes(static_cast<double>(writer.stored_bytes())), seconds, rate, rejects.total());
    if (run.expired > 0) fmt::print("; {} had expired", run.expired);
    fmt::print("\n");
    if (!run.stopped.ok()) fmt::print(stderr, "kvadmin: {}\n", run.stopped.message());
  }
  return rejects.total() > 0 ? kExitRejected : kExitOk;
}

Result<ExitCode> Load(const Globals& globals, const LoadOptions& options) {
  std::vector<char> buffer(kInputBufferBytes);
  std::ifstream file;
  uint64_t total_bytes = 0;
  if (options.file != "-") {
    file.rdbuf()->pubsetbuf(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    file.open(options.file, std::ios::binary);
    if (!file) return ErrnoError(errno, "open {}", options.file);
    struct stat info {};
    if (::stat(options.file.c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
      total_bytes = static_cast<uint64_t>(info.st_size);
    }
    if (S_ISDIR(info.st_mode)) return Error(Code::kInvalidArgument, "{} is a directory", options.file);
  } else {
    std::ios::sync_with_stdio(false);
  }
  std::istream& in = options.file == "-" ? std::cin : file;
  auto reader = MakeRecordReader(options.format.value_or(FormatOfFile(options.file)), in);

  Progress progress("loading", "records", total_bytes, options.quiet);
  Rejects rejects(options, progress);
  RETURN_IF_ERROR(rejects.Open());
  LoadRun run;
  Client client(globals.target);
  BatchWriter writer(client, options.batch, [&](uint64_t line, const std::string& why) {
    Status status = rejects.Add(line, why);
    if (!status.ok()) run.stopped = status;
    return status;
  });
  Status fed = Feed(*reader, writer, rejects, progress, &run);
  // What was read before a bad line is stored: the summary says exactly how much.
  if (fed.ok()) fed = writer.Finish();
  progress.Clear();
  if (!fed.ok() && run.stopped.ok()) {
    return Error(fed.code(), "{} ({} records are known to be stored)", fed.message(), writer.stored());
  }
  return Summarise(globals, writer, rejects, run, progress.ElapsedSeconds());
}

}  // namespace

void AddLoadCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<LoadOptions>();
  CLI::App* command = app.add_subcommand("load", "Store the records of a file");
  command->add_option("file", o->file, "JSON lines or CSV; - is standard input")->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--format", [o](const std::string& f) { o->format = f == "csv" ? Format::kCsv : Format::kJsonLines; },
          "jsonl or csv; default: by the file's name, else jsonl")
      ->check(CLI::IsMember({"jsonl", "csv"}));
  command
      ->add_option_function<std::string>(
          Spell("--on-error"), [o](const std::string& f) { o->skip_errors = f == "skip"; },
          "What to do at a line that is no record: stop (default) or skip")
      ->check(CLI::IsMember({"stop", "skip"}));
  command->add_option("--rejects", o->rejects_file, "Write line number and reason of every reject to this file");
  command->add_flag("-q,--quiet", o->quiet, "No progress");
  command->add_option(Spell("--batch-ops"), o->batch.batch_ops, "Records of one request")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, kMaxBatchOps));
  command->add_option("--window", o->batch.window, "Requests in progress")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command->footer(
      "A JSON line is {\"key\": \"...\", \"value\": \"...\"}; bytes that are not UTF-8 go as \"key_b64\" and\n"
      "\"value_b64\"; \"ttl_ms\" or \"expires_at_ms\" may be given. CSV has a header line with the same names.\n"
      "A later record of a key wins over an earlier one.\n\n"
      "Examples:\n"
      "  kvadmin load packages.jsonl\n"
      "  kvadmin load users.csv --on-error skip --rejects bad-lines.jsonl\n"
      "  zcat dump.jsonl.gz | kvadmin load -\n"
      "Exit codes: 0 all stored; 6 records were rejected.");
  OnChosen(command, globals, [=] { return Load(*globals, *o); });
}

}  // namespace pando::admin
