#include "src/verify/accept_log_loss.h"

#include <algorithm>
#include <unordered_map>

#include "src/model/record.h"
#include "src/partition/partition_file.h"
#include "src/verify/accept_loss.h"
#include "src/wal/log_suffix.h"
#include "src/wal/stream_history.h"

namespace pando {
namespace {

using From = PartitionLogLoss::From;

// What can no longer be read may be of higher epochs than what can. Each start of a node takes one.
constexpr Epoch kEpochGap = 1u << 16;
constexpr uint64_t kDefaultSegmentBytes = 8u << 20;  // if no segment is left that tells

// The highest version in the unit; 0 if its records cannot be read.
Version VersionOf(const WriteUnit& unit) {
  Version version = 0;
  ByteReader reader(unit.records);
  for (uint32_t i = 0; i < unit.record_count; ++i) {
    Result<LogRecord> record = DecodeRecord(&reader);
    if (!record.ok()) break;
    version = std::max(version, record->version);
  }
  return version;
}

// Reads a log as far as it can be read, and judges how its partitions continue.
class LogLossAudit {
 public:
  LogLossAudit(Reactor& reactor, LogLossReport* report)
      : reactor_(reactor), report_(*report), dropped_(report->store.DroppedInLog(report->reactor)) {
    reading_.directory = report_.directory = report_.store.LogDirectory(report_.reactor);
    reading_.node = report_.store.node;
  }

  Task<Status> Run() {
    for (const PartitionInfo& info : report_.store.partitions) {
      if (report_.store.ReactorOf(info.id) == report_.reactor) CO_RETURN_IF_ERROR(co_await OpenFile(info));
    }
    CO_RETURN_IF_ERROR(co_await Read());
    for (Partition& p : partitions_) Judge(&p);
    co_return Status();
  }

  // Whether a start would refuse the log, as recovery decides it.
  Task<Status> ReadAsRecovery() {
    Status status = co_await ReadWhole(reading_);
    if (status.code() != Code::kCorruption) co_return status;
    LogReader::Options suffix = reading_;
    auto means_nothing = [this](const Uuid& partition, const LogEntry& entry) {
      return MeansNothing(partition, entry);
    };
    CO_ASSIGN_OR_RETURN(suffix.first_segment,
                        co_await FindSufficientSuffix(reactor_, suffix, status, std::move(means_nothing)));
    co_return co_await ReadWhole(suffix);
  }

  // Fills in the cut, after Run.
  void PlanCut() {
    LogCutContent* content = &report_.content;
    for (const LogSegmentInfo& segment : segments_) {
      const bool damaged_part = damage_ && damage_->segment == segment.number;
      if (segment.number > PositionSegment(report_.cut.at) || damaged_part) {
        report_.put_aside.push_back(SegmentFileName(segment.number));
      }
      if (segment.number == PositionSegment(report_.cut.at)) content->copy_part = damaged_part;
      const bool size_ok = segment.bytes >= kMinSegmentBytes && segment.bytes % kBlockBytes == 0;
      if (size_ok) content->segment_bytes = std::max(content->segment_bytes, segment.bytes);
    }
    if (content->segment_bytes == 0) content->segment_bytes = kDefaultSegmentBytes;
    for (const Partition& p : partitions_) {
      content->marks.push_back(MarkOf(p));
      report_.partitions.push_back(p.loss);
    }
  }

  const std::optional<LogDamage>& damage() const { return damage_; }
  LogPosition end() const { return report_.cut.at; }
  LogPosition required_end() const { return required_end_; }
  const std::string& required_by() const { return required_by_; }
  LogPosition furthest() const { return furthest_; }
  std::vector<Uuid> ThatBeginAnew() const {
    std::vector<Uuid> found;
    for (const Partition& p : partitions_) {
      if (p.loss.from == From::kCheckpoint) found.push_back(p.loss.info.uuid);
    }
    return found;
  }

 private:
  struct Partition {
    PartitionLogLoss loss;
    bool opens = false;
    Superblock sb;                                 // if its file has one
    Lsn first_lsn = 0;                             // the lowest in the log before the damage; 0: none
    bool meets = true;                             // as far as can be seen, the log continues the checkpoint
    Epoch epoch = 0;                               // the highest
    Epoch known_epoch = 0;                         // in which known_lsn was written
    std::string broken;                            // how its units do not form one history
    std::vector<std::pair<Lsn, uint64_t>> behind;  // the last LSNs of units behind the damage, and their records
  };

  Task<Status> OpenFile(PartitionInfo info) {
    Partition& p = partitions_.emplace_back();
    p.loss.info = info;
    const StoreInfo& store = report_.store;
    const std::string path = store.PartitionDirectory(info.id) + "/" + kPartitionFileName;
    PartitionFileOptions options{path, store.node, info.uuid, store.page_bytes, store.seal_bytes};
    std::vector<MetaDamage> damage;
    auto opened = co_await PartitionFile::Open(reactor_, std::move(options), /*read_only=*/true, &damage);
    const bool damaged =
        opened.code() == Code::kCorruption || opened.code() == Code::kIoError || opened.code() == Code::kNotFound;
    if (!opened.ok() && !damaged) co_return opened.status();
    if (!opened.ok()) {
      p.loss.why = opened.status().message();
      co_return Status();
    }
    p.sb = (*opened)->superblock();
    CO_RETURN_IF_ERROR(co_await (*opened)->Close());
    p.opens = damage.empty();
    if (!p.opens) p.loss.why = fmt::format("{}: offset {}: {}", path, damage.front().offset_bytes, damage.front().what);
    p.loss.checkpoint_lsn = p.loss.keeps_lsn = p.sb.checkpoint_lsn;
    Know(&p, p.sb.epoch, p.sb.checkpoint_lsn, p.sb.last_version);
    furthest_ = std::max(furthest_, p.sb.log_end);
    if (p.opens && p.sb.log_end > required_end_) {
      required_end_ = p.sb.log_end;
      required_by_ = path;
    }
    co_return Status();
  }

  Task<Status> ReadWhole(LogReader::Options options) {
    CO_ASSIGN_OR_RETURN(const std::unique_ptr<LogReader> reader, co_await LogReader::Open(reactor_, options));
    LogEntry entry;
    for (;;) {
      CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
      if (!more) co_return Status();
    }
  }

  Task<Status> Read() {
    for (Partition& p : partitions_) by_uuid_[p.loss.info.uuid] = &p;
    LogReader::Options options = reading_;
    options.salvage = true;
    Result<std::unique_ptr<LogReader>> opened = co_await LogReader::Open(reactor_, std::move(options));
    if (opened.code() == Code::kNotFound) co_return Status();  // all of the log is missing
    CO_RETURN_IF_ERROR(opened.status());
    LogReader& reader = **opened;
    LogEntry entry;
    for (;;) {
      CO_ASSIGN_OR_RETURN(const bool more, co_await reader.Next(&entry));
      if (!more) break;
      ++report_.batches;
      report_.records += entry.header.record_count;
      Add(entry);
    }
    report_.cut.at = reader.end();
    damage_ = reader.damage();
    segments_ = reader.segments();
    for (;;) {
      CO_ASSIGN_OR_RETURN(const bool more, co_await reader.NextBehind(&entry));
      if (!more) co_return Status();
      ++report_.batches_behind;
      report_.records_behind += entry.header.record_count;
      AddBehind(entry);
    }
  }

  bool MeansNothing(const Uuid& partition, const LogEntry& entry) const {
    return std::any_of(dropped_.begin(), dropped_.end(),
                       [&](const auto& d) { return d.first == partition && entry.end <= d.second; });
  }
  Partition* Find(const Uuid& uuid) {
    const auto at = by_uuid_.find(uuid);
    return at == by_uuid_.end() ? nullptr : at->second;
  }

  // The sequence had reached this LSN, says a mark or the file. In a higher epoch it may be lower than before.
  static void Know(Partition* p, Epoch epoch, Lsn lsn, Version version) {
    p->epoch = std::max(p->epoch, epoch);
    p->loss.known_version = std::max(p->loss.known_version, version);
    if (lsn == 0 || epoch < p->known_epoch) return;
    p->loss.known_lsn = epoch > p->known_epoch ? lsn : std::max(p->loss.known_lsn, lsn);
    p->known_epoch = epoch;
  }

  // In log order, every unit that was not appended again is the end of the sequence.
  static void KnowUnit(Partition* p, const WriteUnit& unit, uint16_t flags) {
    const Lsn last = unit.last_lsn();
    Know(p, unit.epoch, 0, VersionOf(unit));
    p->loss.known_lsn = (flags & kUnitAgain) != 0 ? std::max(p->loss.known_lsn, last) : last;
    p->known_epoch = std::max(p->known_epoch, unit.epoch);
  }

  void Add(const LogEntry& entry) {
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
          if (Partition* p = Find(partition)) AddUnit(p, entry, unit, flags);
          return true;
        },
        [&](const StreamMark& mark) {
          Partition* p = Find(mark.partition);
          if (p == nullptr) return true;
          const bool nothing = MeansNothing(mark.partition, entry);
          if (!nothing) history_.Accept(mark);
          Know(p, mark.epoch, nothing ? 0 : std::max(mark.durable_lsn, mark.commit_lsn), mark.hlc);
          return true;
        },
        [&](const StreamCut& cut) {
          Partition* p = Find(cut.partition);
          if (p == nullptr || MeansNothing(cut.partition, entry)) return true;
          p->loss.known_lsn = cut.after.lsn;
          NoteBroken(p, entry, history_.Accept(cut));
          return true;
        });
  }

  void NoteBroken(Partition* p, const LogEntry& entry, StreamHistory::Verdict verdict) {
    if (verdict != StreamHistory::Verdict::kBroken) return;
    p->broken = fmt::format("{}: offset {}: {}", entry.segment->path, entry.offset, history_.wrong());
  }

  void AddUnit(Partition* p, const LogEntry& entry, const WriteUnit& unit, uint16_t flags) {
    const bool nothing = MeansNothing(p->loss.info.uuid, entry);
    if (nothing) return Know(p, unit.epoch, 0, VersionOf(unit));
    KnowUnit(p, unit, flags);
    p->first_lsn = p->first_lsn == 0 ? unit.first_lsn : std::min(p->first_lsn, unit.first_lsn);
    const Lsn checkpoint = p->loss.checkpoint_lsn;
    if (p->sb.chain != 0 && unit.last_lsn() == checkpoint) p->meets = unit.chain_after == p->sb.chain;
    if (p->sb.chain != 0 && unit.first_lsn == checkpoint + 1) p->meets = unit.chain_before == p->sb.chain;
    NoteBroken(p, entry, history_.Accept(p->loss.info.uuid, unit, flags, HasUnits(entry.header)));
  }

  void AddBehind(const LogEntry& entry) {
    ForEachItem(
        entry.header, entry.payload,
        [&](const Uuid& partition, const WriteUnit& unit, uint16_t flags) {
          Partition* p = Find(partition);
          if (p == nullptr || MeansNothing(partition, entry)) return true;
          KnowUnit(p, unit, flags);
          if ((flags & kUnitAgain) == 0) p->behind.emplace_back(unit.last_lsn(), unit.record_count);
          return true;
        },
        [&](const StreamMark& mark) {
          Partition* p = Find(mark.partition);
          if (p == nullptr || MeansNothing(mark.partition, entry)) return true;
          Know(p, mark.epoch, std::max(mark.durable_lsn, mark.commit_lsn), mark.hlc);
          return true;
        },
        [&](const StreamCut& cut) {
          Partition* p = Find(cut.partition);
          if (p == nullptr || MeansNothing(cut.partition, entry)) return true;
          p->loss.known_lsn = cut.after.lsn;
          std::erase_if(p->behind, [&](const auto& unit) { return unit.first > cut.after.lsn; });
          return true;
        });
  }

  // Why a start quarantines the partition, whatever becomes of the log; empty: it does not.
  std::string OwnDamage(const Partition& p) const {
    if (!p.opens) return p.loss.why;
    if (!p.broken.empty()) return p.broken;
    const Lsn checkpoint = p.loss.checkpoint_lsn;
    const auto mark = history_.marks().find(p.loss.info.uuid);
    if (mark != history_.marks().end() && mark->second.released_lsn > checkpoint) {
      return fmt::format("its file ends at LSN {}, but had been checkpointed up to LSN {}: it is an older copy",
                         checkpoint, mark->second.released_lsn);
    }
    const StreamHistory::Stream* stream = history_.Find(p.loss.info.uuid);
    if (stream == nullptr || stream->last().lsn <= checkpoint || p.first_lsn <= checkpoint + 1) return "";
    return fmt::format("its file ends at LSN {}, and the log begins at LSN {}", checkpoint, p.first_lsn);
  }

  void Judge(Partition* p) {
    PartitionLogLoss& loss = p->loss;
    const Uuid& uuid = loss.info.uuid;
    const StreamHistory::Stream* stream = history_.Find(uuid);
    loss.why = OwnDamage(*p);
    if (!loss.why.empty()) {
      loss.from = From::kQuarantined;
      if (stream != nullptr) loss.keeps_lsn = std::max(loss.keeps_lsn, stream->last().lsn);
    } else if (stream != nullptr && stream->last().lsn > loss.checkpoint_lsn && stream->last().epoch >= p->sb.epoch &&
               p->meets && history_.LastGap(uuid) <= loss.checkpoint_lsn &&
               history_.AcceptEnd(uuid, loss.checkpoint_lsn)) {
      loss.from = From::kLog;
      loss.keeps_lsn = stream->last().lsn;
    }
    for (const auto& [lsn, records] : p->behind) {
      if (lsn > loss.keeps_lsn) loss.readable_records += records;
    }
    loss.known_lsn = std::max(loss.known_lsn, loss.keeps_lsn);
  }

  // What the cut states of the partition.
  StreamMark MarkOf(const Partition& p) const {
    const PartitionLogLoss& loss = p.loss;
    const auto last = history_.marks().find(loss.info.uuid);
    StreamMark mark = last == history_.marks().end() ? StreamMark() : last->second;
    mark.partition = loss.info.uuid;
    mark.epoch = p.epoch + kEpochGap;
    mark.hlc = std::max(mark.hlc, loss.known_version);
    if (loss.from == From::kLog) {
      mark.durable_lsn = loss.keeps_lsn;
    } else if (loss.from == From::kCheckpoint) {
      // Nothing older is taken for it: neither the older superblock nor a copy of the file.
      mark.commit_lsn = mark.durable_lsn = mark.released_lsn = loss.keeps_lsn;
    } else if (loss.known_lsn > loss.keeps_lsn) {
      mark.commit_lsn = mark.durable_lsn = mark.released_lsn = loss.known_lsn;
    }
    return mark;
  }

  Reactor& reactor_;
  LogLossReport& report_;
  const std::vector<std::pair<Uuid, LogPosition>> dropped_;
  LogReader::Options reading_;
  std::vector<Partition> partitions_;
  std::unordered_map<Uuid, Partition*, UuidHash> by_uuid_;
  StreamHistory history_;
  std::optional<LogDamage> damage_;
  std::vector<LogSegmentInfo> segments_;
  LogPosition required_end_ = 0;  // by a partition that is served
  std::string required_by_;
  LogPosition furthest_ = 0;  // by any superblock
};

Task<Status> Finish(Reactor* reactor, StoreInfo store, uint32_t log, const Directory* directory, LogCut cut) {
  CO_RETURN_IF_ERROR(co_await PutAside(directory, cut));
  // AL3: what is left says the same again.
  LogLossReport report;
  report.store = store;
  report.reactor = log;
  LogLossAudit audit(*reactor, &report);
  CO_RETURN_IF_ERROR(co_await audit.Run());
  if (audit.damage() || audit.end() != cut.at) {
    co_return Error(Code::kCorruption, "{}: the log before the damage is no longer what it was: {}", report.directory,
                    audit.damage() ? audit.damage()->what : "it ends elsewhere");
  }
  for (const Uuid& uuid : audit.ThatBeginAnew()) store.BeginAnew(uuid, MakePosition(cut.number, 0));
  CO_RETURN_IF_ERROR(co_await WriteStore(*reactor, &store));
  co_return co_await FinishCut(directory, cut);
}

}  // namespace

Task<Result<LogLossReport>> ExamineLogLoss(Reactor& reactor, StoreInfo store, uint32_t log) {
  if (log >= store.reactors) {
    co_return Error(Code::kInvalidArgument, "{}: the store has no log {}, but logs 0 to {}", store.data_dir, log,
                    store.reactors - 1);
  }
  LogLossReport report;
  report.store = std::move(store);
  report.reactor = log;
  LogLossAudit audit(reactor, &report);
  CO_RETURN_IF_ERROR(co_await audit.Run());
  const Status refused = co_await audit.ReadAsRecovery();
  const bool missing = refused.code() == Code::kNotFound;
  const bool lost = audit.end() < audit.required_end();
  if (!refused.ok() && !missing && refused.code() != Code::kCorruption && refused.code() != Code::kIoError) {
    co_return refused;
  }
  if (refused.ok() || missing) {
    if (!lost) {
      co_return Error(Code::kInvalidArgument,
                      "{}: a node starts on this log, so there is no loss to accept. If one partition is quarantined, "
                      "see accept-loss --partition",
                      report.directory);
    }
    report.damage = LostLog(report.directory, audit.end(), audit.required_end(), audit.required_by()).message();
  } else if (audit.damage()) {
    report.damage = audit.damage()->what;
  } else {
    co_return Error(refused.code(), "{}; but then it could be read: start the node again", refused.message());
  }
  // LC3
  CO_ASSIGN_OR_RETURN(report.cut.number, co_await UnusedSegment(&reactor, &report.store, log, audit.furthest()));
  audit.PlanCut();
  co_return std::move(report);
}

Task<Status> AcceptLogLoss(Reactor& reactor, const LogLossReport* report, uint32_t code) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(reactor, report->directory));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(reactor, report->store.data_dir));
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(reactor, report->directory));
  LogCut cut = report->cut;
  cut.code = code;
  Status status = co_await BeginCut(&directory, report->store.node, cut, &report->content);
  if (status.ok()) status = co_await Finish(&reactor, report->store, report->reactor, &directory, cut);
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

Task<Result<std::optional<LogCut>>> FindBegunLogLoss(Reactor& reactor, const StoreInfo* store, uint32_t log) {
  Result<Directory> opened = co_await Directory::Open(reactor, store->LogDirectory(log));
  if (opened.code() == Code::kNotFound) co_return std::optional<LogCut>();
  CO_RETURN_IF_ERROR(opened.status());
  Result<std::optional<LogCut>> cut = co_await FindBegunCut(&*opened, store->node);
  CO_RETURN_IF_ERROR(co_await opened->Close());
  co_return cut;
}

Task<Status> FinishLogLoss(Reactor& reactor, StoreInfo store, uint32_t log, LogCut cut) {
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(reactor, store.LogDirectory(log)));
  Status status = co_await Finish(&reactor, std::move(store), log, &directory, cut);
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

}  // namespace pando
