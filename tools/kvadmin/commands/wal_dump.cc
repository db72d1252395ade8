// kvadmin wal-dump: prints the records of logs, batch by batch, from their files.
//
// Threads: one.
#include <fmt/format.h>

#include <algorithm>

#include "src/model/key_space.h"
#include "src/model/record.h"
#include "src/partition/store_reading.h"
#include "src/partition/superblock.h"
#include "src/wal/log_reader.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/offline.h"

namespace pando::admin {

namespace {

constexpr size_t kValueColumns = 60;

struct WalDumpOptions {
  std::string directory;
  std::string partition;  // id or UUID; empty = all
  uint64_t from_lsn = 0, to_lsn = UINT64_MAX;
  Encoding encoding = Encoding::kText;
  bool summary = false, running = false, marks = false;
};

struct Names {
  // Empty and false if only a log directory was given.
  std::unordered_map<Uuid, uint32_t, UuidHash> ids;
  bool namespaced = false;  // stored keys begin with a namespace
  std::string Of(const Uuid& partition) const {
    auto found = ids.find(partition);
    return found == ids.end() ? partition.ToString() : std::to_string(found->second);
  }
};

const char* OpName(RecordOp op) {
  switch (op) {
    case RecordOp::kPut: return "put";
    case RecordOp::kRemove: return "remove";
    case RecordOp::kIncrement: return "increment";
    case RecordOp::kExpire: return "expire";
    case RecordOp::kTouch: return "touch";
    case RecordOp::kCheck: return "check";
    case RecordOp::kEpochStart: return "epoch start";
    case RecordOp::kOnce: return "once";
    case RecordOp::kClose: return "close";
    case RecordOp::kLease: return "lease";
    case RecordOp::kFeed: return "feed";
  }
  return "?";
}

class Dumper {
 public:
  Dumper(const Globals& globals, const WalDumpOptions& options, const Names& names)
      : json_(globals.json), options_(options), names_(names) {}

  // Prints the records of a batch that pass the filters.
  Status Print(const LogEntry& entry) {
    ++batches_;
    Status status;
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t) {
          if (Passes(partition)) status = PrintUnit(entry, partition, unit);
          return status.ok();
        },
        [&](const StreamMark& mark) {
          if (options_.marks && Passes(mark.partition)) PrintMark(mark);
          return true;
        },
        [&](const StreamCut& cut) {
          if (!options_.summary && Passes(cut.partition)) PrintCut(entry, cut);
          return true;
        });
    return status;
  }
  // From now on come batches that lie behind the end of the log.
  void GoBehind() { behind_ = true; }
  uint64_t batches() const { return batches_; }
  uint64_t records() const { return records_; }

 private:
  bool Passes(const Uuid& partition) const {
    return options_.partition.empty() || options_.partition == names_.Of(partition) ||
           options_.partition == partition.ToString();
  }

  Status PrintUnit(const LogEntry& entry, const Uuid& partition, const WriteUnit& unit) {
    const std::string name = names_.Of(partition);
    ByteReader reader(unit.records);
    for (uint32_t i = 0; i < unit.record_count; ++i) {
      Result<LogRecord> record = DecodeRecord(&reader);
      if (!record.ok()) {
        return Error(Code::kCorruption, "{}: the batch at offset {}: the record at LSN {}: {}", entry.segment->path,
                     entry.offset, unit.first_lsn + i, record.status().message());
      }
      const Lsn lsn = unit.first_lsn + i;
      if (lsn < options_.from_lsn || lsn > options_.to_lsn) continue;
      ++records_;
      if (options_.summary) continue;
      if (json_) {
        PrintJsonRecord(entry, name, unit.epoch, lsn, *record);
      } else {
        PrintTextRecord(name, lsn, *record);
      }
    }
    return Status();
  }
  void PrintMark(const StreamMark& mark) const {
    if (json_) {
      Json j;
      j["mark"] = Json{{"partition", names_.Of(mark.partition)}, {"epoch", mark.epoch},
                       {"commit_lsn", mark.commit_lsn},          {"durable_lsn", mark.durable_lsn},
                       {"released_lsn", mark.released_lsn},      {"version", std::to_string(mark.hlc)}};
      PrintJson(j);
      return;
    }
    tools::Print("{:>10} {:>12} {} mark      durable, {} committed, {} released, epoch {}\n", names_.Of(mark.partition),
                 mark.durable_lsn, TimeText(VersionMs(mark.hlc)), mark.commit_lsn, mark.released_lsn, mark.epoch);
  }
  // It says what of the records before it means nothing, so it is printed like a record.
  void PrintCut(const LogEntry& entry, const StreamCut& cut) const {
    if (json_) {
      Json j;
      j["cut"] = Json{{"partition", names_.Of(cut.partition)},
                      {"after_lsn", cut.after.lsn},
                      {"epoch", cut.after.epoch},
                      {"chain", fmt::format("{:016x}", cut.after.chain)},
                      {"segment", entry.segment->number},
                      {"offset", entry.offset}};
      PrintJson(j);
      return;
    }
    tools::Print("{:>10} {:>12} cut       the records above are void after this LSN\n", names_.Of(cut.partition),
                 cut.after.lsn);
  }
  void PrintTextRecord(const std::string& partition, Lsn lsn, const LogRecord& r) const {
    const auto [namespace_id, key] = SplitStoredKey(r.key, names_.namespaced);
    std::string what;
    if (namespace_id != kDefaultNamespace) what = fmt::format(" in namespace {}", namespace_id);
    if (r.op == RecordOp::kOnce) what += fmt::format(" write {}, first sent {}", r.sequence, TimeText(r.first_sent_ms));
    if (r.op == RecordOp::kPut) what += fmt::format(" = {}", Printable(r.value, options_.encoding, kValueColumns));
    if (r.op == RecordOp::kIncrement) what += fmt::format(" {:+}", r.delta);
    if (r.ttl_mode == TtlMode::kSet) what += " expires " + TimeText(r.expires_at_ms);
    if (r.op == RecordOp::kTouch && r.ttl_mode == TtlMode::kClear) what += " never expires";
    if (r.copied) what += fmt::format(" copies version {}", *r.copied);
    if (r.condition.exists) what += *r.condition.exists ? " if exists" : " if absent";
    if (r.condition.version) what += fmt::format(" if version {}", *r.condition.version);
    if (r.condition.value) what += fmt::format(" if value {}", Printable(*r.condition.value, options_.encoding, 20));
    tools::Print("{:>10} {:>12} {} {:<9} {}{}{}\n", partition, lsn, TimeText(VersionMs(r.version)), OpName(r.op),
                 Printable(key, options_.encoding), what,
                 std::string(r.all_or_nothing ? " all-or-nothing" : "") + (r.continues ? " ..." : ""));
  }
  void PrintJsonRecord(const LogEntry& entry, const std::string& partition, Epoch epoch, Lsn lsn,
                       const LogRecord& r) const {
    Json j;
    j["partition"] = partition;
    j["lsn"] = lsn;
    j["epoch"] = epoch;
    j["version"] = std::to_string(r.version);
    j["op"] = OpName(r.op);
    const auto [namespace_id, key] = SplitStoredKey(r.key, names_.namespaced);
    SetBytes(&j, "key", key);
    if (namespace_id != kDefaultNamespace) j["namespace"] = namespace_id;
    if (r.op == RecordOp::kOnce) {
      j["sequence"] = r.sequence;
      j["first_sent_ms"] = r.first_sent_ms;
      if (r.digest) j["digest"] = fmt::format("{:016x}", *r.digest);
    }
    if (r.op == RecordOp::kPut) SetBytes(&j, "value", r.value);
    if (r.copied) j["copied_version"] = std::to_string(*r.copied);
    if (r.op == RecordOp::kIncrement) j["delta"] = r.delta;
    if (r.ttl_mode == TtlMode::kSet) j["expires_at_ms"] = r.expires_at_ms;
    if (r.ttl_mode == TtlMode::kClear) j["clears_ttl"] = true;
    if (r.condition.exists) j["condition"]["exists"] = *r.condition.exists;
    if (r.condition.version) j["condition"]["version"] = std::to_string(*r.condition.version);
    if (r.condition.value) {
      Json value;
      SetBytes(&value, "value", *r.condition.value);
      j["condition"].update(value);
    }
    j["continues"] = r.continues;
    if (r.all_or_nothing) j["all_or_nothing"] = true;
    j["segment"] = entry.segment->number;
    j["offset"] = entry.offset;
    if (behind_) j["behind_damage"] = true;
    PrintJson(j);
  }

  const bool json_;
  const WalDumpOptions& options_;
  const Names& names_;
  uint64_t batches_ = 0, records_ = 0;
  bool behind_ = false;
};

// Prints where the log is damaged, and what can be read behind.
Task<Status> DumpBehind(LogReader* log, Dumper* dumper, bool json) {
  const LogDamage& damage = *log->damage();
  if (json) {
    PrintJson(Json{{"damage", Json{{"segment", damage.segment}, {"offset", damage.offset}, {"what", damage.what}}}});
  } else {
    tools::Print("DAMAGED: {}\nThe log cannot be read on from here. What can be read behind, perhaps with gaps:\n",
                 damage.what);
  }
  dumper->GoBehind();
  for (;;) {
    LogEntry entry;
    CO_ASSIGN_OR_RETURN(const bool any, co_await log->NextBehind(&entry));
    if (!any) co_return Status();
    CO_RETURN_IF_ERROR(dumper->Print(entry));
    CO_RETURN_IF_ERROR(tools::OutputStatus());
  }
}

void PrintSegments(const Globals& globals, const LogReader& log, const Dumper& dumper) {
  if (globals.json) {
    Json j;
    j["summary"]["records"] = dumper.records();
    j["summary"]["batches"] = dumper.batches();
    j["summary"]["node"] = log.node().ToString();
    j["summary"]["torn"] = log.torn();
    j["summary"]["end_segment"] = PositionSegment(log.end());
    j["summary"]["end_offset"] = PositionOffset(log.end());
    if (!log.end_reason().empty()) j["summary"]["end_reason"] = log.end_reason();
    for (const LogSegmentInfo& s : log.segments()) {
      j["summary"]["segments"].push_back(
          Json{{"number", s.number}, {"path", s.path}, {"bytes", s.bytes}, {"use", SegmentUseName(s.use)}});
    }
    PrintJson(j);
    return;
  }
  tools::Table table({"SEGMENT", "BYTES", "USE", "FILE"});
  for (const LogSegmentInfo& s : log.segments()) {
    table.Row({std::to_string(s.number), std::to_string(s.bytes), SegmentUseName(s.use), s.path});
  }
  tools::Print("\n{}{} records in {} batches; the log ends in segment {} at offset {}{}\n", table.Render(),
               dumper.records(), dumper.batches(), PositionSegment(log.end()), PositionOffset(log.end()),
               log.torn() ? fmt::format("; after the end: {}", log.end_reason()) : "");
}

// How far a log had come, according to the superblocks of the partitions in it. A partition that
// cannot be read says nothing; its log can still be printed.
struct LogRequirement {
  LogPosition end = 0;
  std::string path;  // of the file that says so
};

Task<LogRequirement> RequirementOf(Reactor* reactor, const StoreInfo* store, uint32_t index) {
  LogRequirement required;
  for (const PartitionInfo& p : store->partitions) {
    if (store->ReactorOf(p.id) != index) continue;
    const std::string path = store->PartitionFilePath(p.id);
    Result<File> file = co_await File::Open(*reactor, path, File::Mode::kRead, /*direct=*/true);
    if (!file.ok()) continue;
    AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
    Status status = co_await file->Read(head.data(), head.size(), 0);
    Status closed = co_await file->Close();
    if (!status.ok() || !closed.ok()) continue;
    Lsn older_lsn = 0;
    Result<Superblock> newest = ChooseSuperblock({head.data(), head.size()}, path, &older_lsn);
    if (newest.ok() && newest->log_end > required.end) required = {newest->log_end, path};
  }
  co_return required;
}

// `required` is null if only the log's directory was given.
Task<Status> DumpLog(Reactor* reactor, const Globals* globals, const WalDumpOptions* options, const Names* names,
                     std::string directory, const LogRequirement* required) {
  LogReader::Options log_options;
  log_options.directory = directory;
  log_options.salvage = true;
  Result<std::unique_ptr<LogReader>> opened = co_await LogReader::Open(*reactor, log_options);
  if (opened.code() == Code::kNotFound && required != nullptr) {
    // A store that was created but never served has no log yet.
    if (required->end == 0) {
      if (!globals->json) tools::Print("0 records; this log was not begun yet\n");
      co_return Status();
    }
    co_return LostLog(directory, 0, required->end, required->path);
  }
  if (!opened.ok()) co_return opened.TakeStatus();
  std::unique_ptr<LogReader> log = *std::move(opened);
  if (log->segments().empty() && required == nullptr) {
    co_return Error(Code::kNotFound,
                    "{}: holds no log and no store; give a data directory, or a wal-N directory in one", directory);
  }
  Dumper dumper(*globals, *options, *names);
  for (;;) {
    LogEntry entry;
    CO_ASSIGN_OR_RETURN(bool any, co_await log->Next(&entry));
    if (!any) break;
    CO_RETURN_IF_ERROR(dumper.Print(entry));
    CO_RETURN_IF_ERROR(tools::OutputStatus());  // stop if the output cannot be written
  }
  if (log->damage()) CO_RETURN_IF_ERROR(co_await DumpBehind(log.get(), &dumper, globals->json));
  PrintSegments(*globals, *log, dumper);
  if (log->damage()) co_return Error(Code::kCorruption, "{}", log->damage()->what);
  if (required != nullptr && log->end() < required->end) {
    co_return LostLog(directory, log->end(), required->end, required->path);
  }
  co_return Status();
}

Task<Result<ExitCode>> WalDump(Reactor* reactor, const Globals* globals, const WalDumpOptions* options) {
  Names names;
  Result<StoreInfo> store = co_await LoadStore(*reactor, options->directory);
  if (!store.ok()) {
    // Not a store; perhaps the directory of one log.
    if (store.code() != Code::kNotFound) co_return store.TakeStatus();
    Status status = co_await DumpLog(reactor, globals, options, &names, options->directory, nullptr);
    if (!status.ok()) co_return status;
    co_return kExitOk;
  }
  for (const PartitionInfo& p : store->partitions) names.ids.emplace(p.uuid, p.id);
  names.namespaced = store->namespaced;
  File lock;
  if (!options->running) {
    Result<File> taken = co_await LockStoreForReading(*reactor, options->directory);
    if (!taken.ok()) {
      co_return Error(taken.code(),
                      "{} (to read the log of a running node, use --running; its end may then look damaged)",
                      taken.status().message());
    }
    lock = *std::move(taken);
  }
  Status status;
  // Damage of one log says nothing about the others.
  for (uint32_t r = 0; r < store->reactors && (status.ok() || status.code() == Code::kCorruption); ++r) {
    if (!globals->json) tools::Print("{}log of reactor {}\n", r > 0 ? "\n" : "", r);
    LogRequirement required;
    // The log of a running node may look as if it ended early.
    if (!options->running) required = co_await RequirementOf(reactor, &*store, r);
    Status dumped = co_await DumpLog(reactor, globals, options, &names, store->LogDirectory(r), &required);
    const bool ends = !dumped.ok() && dumped.code() != Code::kCorruption;
    if (status.ok() || ends) status = std::move(dumped);
  }
  if (lock.is_open()) {
    Status closed = co_await lock.Close();
    if (status.ok()) status = std::move(closed);
  }
  if (!status.ok()) co_return status;
  co_return kExitOk;
}

}  // namespace

void AddWalDumpCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<WalDumpOptions>();
  tools::Command command = app.Add("wal-dump", "Print the records of a stopped node's logs");
  command.Text("directory", &o->directory, "A data directory, or one wal-N directory in it")
      .Required()
      .ExistingDirectory();
  command.Text("--partition", &o->partition, "Only this partition, given by its number or UUID");
  command.Number("--from-lsn", &o->from_lsn, "First LSN");
  command.Number("--to-lsn", &o->to_lsn, "Last LSN");
  command.Flag("--summary", &o->summary, "Print only the segments and the number of records");
  command.Flag("--running", &o->running, "Read the directory even if a node has it open");
  command.Flag("--marks", &o->marks, "Also print the marks, which say how far each partition had come");
  AddEncodingOptions(command, &o->encoding);
  command.Footer(
      "Columns: partition, LSN, time, operation, key. A record whose line ends in ... is applied together with the\n"
      "next one. Keys are those of requests; if only a wal-N directory is given, they are as stored, with the "
      "namespace\n"
      "in front. wal-dump changes nothing. Of a damaged log it also prints what can be read behind the damage.\n\n"
      "Examples:\n"
      "  kvadmin wal-dump /var/lib/pando\n"
      "  kvadmin wal-dump /var/lib/pando --partition 3 --from-lsn 1000 --to-lsn 1010\n"
      "  kvadmin --json wal-dump /var/lib/pando | jq 'select(.op == \"remove\")'\n"
      "Exit codes: 0 read to the end; 3 the directory holds no log; 4 the log is damaged, or a part of it is lost;\n"
      "5 a node has it open.");
  OnChosen(command, globals,
           [=] { return RunOffline([=](Reactor& reactor) { return WalDump(&reactor, globals, o.get()); }); });
}

}  // namespace pando::admin
