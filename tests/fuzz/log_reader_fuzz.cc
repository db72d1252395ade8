// Fuzzes the log reader and recovery: builds a log directory from the input, then reads and
// recovers it on the simulated kernel.
//
// The input is a script that lays out up to four segments: correct batches of this format, some of which
// cut a history, and of format 2, batches with a valid checksum but false contents (about their place, their
// predecessor, what was durable, or the partitions), raw bytes, flipped bits, and missing files. For every input, no
// read is out of bounds, no CHECK fails, and corruption is an error that names a file. The reader and recovery agree on
// what is corrupt, and recovering the recovered log gives the same histories. A log that is cut before its damage is
// sound.
#include <glog/logging.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/base/codec.h"
#include "src/wal/log.h"
#include "src/wal/log_cut.h"
#include "src/wal/log_reader.h"
#include "tests/support/old_log.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

constexpr Uuid kNode{3, 4};
constexpr uint64_t kSegmentBytes = 32u << 10;
constexpr char kDirectory[] = "/wal";

class Script {
 public:
  Script(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool more() const { return at_ < size_; }
  uint8_t Byte() { return at_ < size_ ? data_[at_++] : 0; }
  uint32_t Word() { return Byte() | Byte() << 8; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

class Layout {
 public:
  void Run(Script* script, SimDisk* disk) {
    for (int segments = 1 + script->Byte() % 4; segments > 0; --segments) {
      number_ += 1 + (script->Byte() % 8 == 0);
      image_.assign(kSegmentBytes, '\0');
      EncodeSegmentHeader(kNode, number_, kSegmentBytes, image_.data());
      offset_ = kFirstGroupOffset;
      bool keep = true;
      for (uint8_t op = script->Byte(); script->more() && op % 16 != 0; op = script->Byte()) keep &= Step(op, script);
      if (keep) disk->WriteAll(std::string(kDirectory) + "/" + SegmentFileName(number_), image_);
    }
  }

 private:
  bool Step(uint8_t op, Script* script) {
    switch (op % 16) {
      default: Batch(script, 0, true, true); break;
      case 9: Batch(script, 0, op & 16, true, /*cut=*/true); break;
      case 10: Batch(script, kBatchCut, true, true); break;
      case 11: Batch(script, 0, false, true); break;  // false contents
      case 12: Batch(script, 0, true, false); break;  // the batch never reached the disk
      case 13: image_[script->Word() % kSegmentBytes] ^= static_cast<char>(1 << op / 32); break;
      case 14:
        for (int n = op / 16; n >= 0 && offset_ < kSegmentBytes; --n)
          image_[offset_++] = static_cast<char>(script->Byte());
        offset_ = AlignUp(offset_, op & 0x10 ? kBlockBytes : kBatchAlignment);
        break;
      case 15: return script->Byte() % 4 != 0;
    }
    return true;
  }

  // A unit of partition kind / 16 % 3, honest unless `lie` says otherwise.
  void AddUnit(uint8_t kind, uint8_t lie, Script* script, BatchHeader* h, std::string* payload) {
    Chain& chain = chains_[kind / 16 % 3];
    const uint32_t count = 1 + kind / 4 % 3;
    const std::string records(count * (1 + script->Byte() * 8u), 'x');
    WriteUnit unit{chain.epoch, chain.next, count, chain.value, 0, records};
    if (lie & 1) unit.first_lsn += script->Byte();
    if (lie & 2) unit.first_lsn -= std::min<Lsn>(unit.first_lsn - 1, script->Byte() % 8);
    if (lie & 4) unit.epoch += script->Byte() % 3;
    if (lie & 8) unit.chain_before = chain.before;
    unit.chain_after = UnitChain(unit) ^ (lie & 16 ? 1 : 0);
    const auto flags = static_cast<uint16_t>((chain.value == 0 ? kUnitStartsAnew : 0) | (lie & 32 ? lie >> 6 : 0));
    const size_t at = payload->size();
    payload->resize(at + UnitBytes(records.size()));
    EncodeUnit(Uuid{7, 1u + kind / 16 % 3}, unit, flags, payload->data() + at);
    h->record_count += count;
    chain = {unit.epoch, unit.last_lsn() + 1, chain.value, unit.chain_after, unit.first_lsn - 1};
  }

  // Ends the history of the partition at its unit before the last one, honestly unless `lie` says otherwise.
  void AddCut(uint8_t kind, uint8_t lie, BatchHeader* h, std::string* payload) {
    Chain& chain = chains_[kind / 16 % 3];
    StreamCut cut{Uuid{7, 1u + kind / 16 % 3}, {chain.epoch, chain.before_lsn, chain.before}};
    if (lie & 1) cut.after.lsn = lie / 16;
    if (lie & 2) cut.after.chain ^= 1;
    if (lie & 4) cut.after.epoch = lie / 16;
    payload->resize(payload->size() + kCutBytes);
    EncodeCut(cut, payload->data() + payload->size() - kCutBytes);
    ++h->record_count;
    chain.next = cut.after.lsn + 1;
    chain.value = chain.before;
  }

  void AddMark(uint8_t kind, uint8_t lie, std::string* payload) {
    const Chain& chain = chains_[kind / 16 % 3];
    StreamMark mark{Uuid{7, 1u + kind / 16 % 3}, chain.epoch, 0, chain.next - 1, 0, 0};
    if (lie & 1) mark.commit_lsn = mark.durable_lsn;
    if (lie & 2) mark.durable_lsn += lie / 16;
    if (lie & 4) mark.released_lsn = lie;
    payload->resize(payload->size() + kMarkBytes);
    EncodeMark(mark, payload->data() + payload->size() - kMarkBytes);
  }

  void Batch(Script* script, uint32_t flags, bool honest, bool present, bool cut = false) {
    const uint8_t kind = script->Byte();
    const bool old = kind % 16 == 14;
    BatchHeader h{};
    h.flags = flags | kBatchEndsGroup;
    std::string payload;
    if (flags != kBatchCut && kind % 16 != 15 && !old) {
      for (int units = 1 + kind % 3; units > 0; --units)
        AddUnit(static_cast<uint8_t>(kind + 16 * units), honest ? 0 : script->Byte(), script, &h, &payload);
    }
    if (flags != kBatchCut && !old && cut) AddCut(kind, script->Byte(), &h, &payload);
    if (!old && kind & 8) AddMark(kind, script->Byte(), &payload);
    if (offset_ + BatchBytes(payload.size()) > kSegmentBytes) return;
    h.segment_number = number_;
    h.position = MakePosition(number_, offset_);
    h.previous_end = previous_end_;
    h.durable_position = kind & 2 ? durable_ : previous_end_;
    h.previous_checksum = checksum_;
    if (!honest) {
      const uint8_t lie = script->Byte();
      if (lie & 1) h.previous_end = MakePosition(script->Byte() % 5, script->Word());
      if (lie & 2) h.durable_position = MakePosition(script->Byte() % 5, script->Word());
      if (lie & 4) h.previous_checksum ^= 1;
      if (lie & 8) h.flags = script->Byte();
      if (lie & 16) h.record_count = script->Byte();
      if (lie & 32) h.position += script->Byte() * 8;
      if (lie & 64) h.segment_number = script->Byte() % 5;
    }
    std::string bytes = old ? OldBatch(kind, script, h) : std::string(BatchBytes(payload.size()), '\0');
    if (!old) {
      bytes.replace(kBatchOverhead, payload.size(), payload);
      checksum_ = SealBatch(h, LogChecksumSeed(kNode), payload.size(), bytes.data());
    }
    if (offset_ + bytes.size() > kSegmentBytes) return;
    if (present) image_.replace(offset_, bytes.size(), bytes);
    if (kind & 4) durable_ = previous_end_;
    previous_end_ = MakePosition(number_, offset_ + bytes.size());
    offset_ = AlignUp(offset_ + bytes.size(), kBlockBytes);
  }

  // A group of format 2 with one batch.
  std::string OldBatch(uint8_t kind, Script* script, BatchHeader h) {
    Chain& chain = chains_[kind / 16 % 3];
    h.partition = Uuid{7, 1u + kind / 16 % 3};
    h.record_count = 1 + kind / 4 % 3;
    h.epoch = chain.epoch;
    h.first_lsn = chain.next;
    h.previous_checksum = chain.value;
    if (chain.value == 0) h.flags |= kBatchStartsStream;
    std::string bytes = log_test::EncodeOldBatch(h, LogChecksumSeed(kNode), std::string(1 + script->Byte(), 'x'));
    const Lsn first = chain.next;
    chain = {chain.epoch, first + h.record_count, chain.value, LoadLE<uint64_t>(bytes.data()), first - 1};
    checksum_ = 0;
    return bytes;
  }

  struct Chain {
    Epoch epoch = 1;
    Lsn next = 1;
    uint64_t before = 0, value = 0;
    Lsn before_lsn = 0;
  };
  uint64_t number_ = 0, offset_ = 0;
  std::string image_;
  Chain chains_[3];
  LogPosition previous_end_ = 0, durable_ = 0;
  uint64_t checksum_ = 0;
};

Task<Status> ReadAll(Reactor* reactor, LogPosition* end) {
  LogReader::Options options;
  options.directory = kDirectory;
  options.node = kNode;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(*reactor, std::move(options)));
  LogEntry entry;
  LogPosition last = 0;
  for (;;) {
    CO_ASSIGN_OR_RETURN(const bool more, co_await reader->Next(&entry));
    if (!more) co_return Status();
    CHECK_GT(entry.end, last) << "positions are not ascending";
    *end = last = entry.end;
  }
}

struct Salvaged {
  LogPosition end = 0;
  std::optional<LogDamage> damage;
};

// Reads what can be read.
Task<Result<Salvaged>> Salvage(Reactor* reactor) {
  LogReader::Options options;
  options.directory = kDirectory;
  options.node = kNode;
  options.salvage = true;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<LogReader> reader, co_await LogReader::Open(*reactor, std::move(options)));
  LogEntry entry;
  LogPosition last = 0;
  for (bool behind = false;;) {
    Result<bool> more = false;
    if (behind) more = co_await reader->NextBehind(&entry);
    if (!behind) more = co_await reader->Next(&entry);
    CO_RETURN_IF_ERROR(more.status());
    if (!*more && std::exchange(behind, true)) co_return Salvaged{reader->end(), reader->damage()};
    if (!*more) continue;
    CHECK_GT(entry.end, last) << "positions are not ascending";
    last = entry.end;
  }
}

Task<Status> CutBefore(Reactor* reactor, Salvaged salvaged) {
  CO_ASSIGN_OR_RETURN(Directory directory, co_await Directory::Open(*reactor, kDirectory));
  const LogCut cut{1, 100, salvaged.end};
  LogCutContent content;
  content.copy_part = salvaged.end != 0 && salvaged.damage->segment == PositionSegment(salvaged.end);
  Status status = co_await BeginCut(&directory, kNode, cut, &content);
  if (status.ok()) status = co_await PutAside(&directory, cut);
  if (status.ok()) status = co_await FinishCut(&directory, cut);
  Status closed = co_await directory.Close();
  co_return status.ok() ? std::move(closed) : std::move(status);
}

struct Sink final : LogReplaySink {
  struct Found {
    Epoch epoch = 0;
    Lsn first = 0;
    uint32_t count = 0;
    uint64_t chain = 0;
    std::string records;
    bool operator==(const Found&) const = default;
  };
  Task<Status> OnUnits(const RecoveredUnits& found) override {
    const bool known = histories.contains(found.partition);  // by units or by a cut
    std::vector<Found>& history = histories[found.partition];
    if (found.starts_anew && known) released.erase(found.partition);
    CHECK(!broken.contains(found.partition)) << "a unit of a broken partition was delivered";
    for (const WriteUnit& unit : found.units) {
      history.push_back({unit.epoch, unit.first_lsn, unit.record_count, unit.chain_after, std::string(unit.records)});
    }
    co_return Status();
  }
  Task<Status> OnCut(const RecoveredCut& cut) override {
    CHECK(!broken.contains(cut.partition)) << "a cut of a broken partition was delivered";
    std::erase_if(histories[cut.partition], [&](const Found& f) { return f.first > cut.after.lsn; });
    co_return Status();
  }
  Task<Status> OnMark(const StreamMark& mark) override {
    CHECK(!broken.contains(mark.partition)) << "a mark of a broken partition was delivered";
    released[mark.partition] = mark.released_lsn;
    co_return Status();
  }
  void OnBroken(const Uuid& partition, const Status& why) override {
    CHECK(why.code() == Code::kCorruption && why.message().find("/wal/segment-") != std::string::npos);
    CHECK(broken.insert(partition).second) << "told twice";
  }
  // What the marks say was released may be gone after the recovery.
  std::map<Uuid, std::vector<Found>> NotReleased() const {
    std::map<Uuid, std::vector<Found>> left = histories;
    for (auto& [partition, history] : left) {
      const auto at = released.find(partition);
      if (at == released.end()) continue;
      std::erase_if(history, [&](const Found& f) { return f.first + f.count - 1 <= at->second; });
    }
    std::erase_if(left, [](const auto& entry) { return entry.second.empty(); });
    return left;
  }
  std::map<Uuid, std::vector<Found>> histories;
  std::map<Uuid, Lsn> released;
  std::set<Uuid> broken;
};

Task<Status> Recover(Reactor* reactor, Sink* sink) {
  LogOptions options;
  options.directory = kDirectory;
  options.node = kNode;
  options.segment_bytes = kSegmentBytes;
  options.max_batch_bytes = 8192;
  options.budget_bytes = 4 * kSegmentBytes;
  options.sync_mode = LogOptions::SyncMode::kDataSyncWrite;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<Log> log, co_await Log::Open(*reactor, std::move(options)));
  Status recovered = co_await log->Recover(sink);
  Status closed = co_await log->Close();
  CO_RETURN_IF_ERROR(std::move(recovered));
  co_return closed;
}

// Once the log ends before its damage, it is sound.
void CheckCut(SimKernel* kernel, SimReactor* reactor, const Salvaged& salvaged) {
  const Status cut = *kernel->RunTask(*reactor, CutBefore(reactor, salvaged));
  CHECK(cut.ok()) << cut.ToString();
  Result<Salvaged> left = *kernel->RunTask(*reactor, Salvage(reactor));
  CHECK(left.ok() && !left->damage && PositionSegment(left->end) == 100) << left.status().ToString();
  Sink sink;
  const Status recovered = *kernel->RunTask(*reactor, Recover(reactor, &sink));
  CHECK(recovered.ok()) << recovered.ToString();
}

void CheckDirectory(Script* script) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  machine->disk().WriteAll(std::string(kDirectory) + "/other", "");
  Layout().Run(script, &machine->disk());
  SimReactor* reactor = machine->Boot();
  LogPosition end = 0;
  const Status read = *kernel.RunTask(*reactor, ReadAll(reactor, &end));
  const Result<Salvaged> salvaged = *kernel.RunTask(*reactor, Salvage(reactor));
  if (read.code() == Code::kVersion) {
    CHECK(salvaged.code() == Code::kVersion);
  } else {
    CHECK(salvaged.ok()) << salvaged.status().ToString();
    CHECK_EQ(salvaged->damage.has_value(), !read.ok()) << read.ToString();
    CHECK_GE(salvaged->end, end);
  }
  Sink before, after;
  const Status recovered = *kernel.RunTask(*reactor, Recover(reactor, &before));
  // Damage in segments that recovery does not need does not keep the log from being opened.
  const bool passed_over = read.code() == Code::kCorruption && recovered.ok();
  CHECK(passed_over || read.code() == recovered.code()) << read.ToString() << " / " << recovered.ToString();
  if (!recovered.ok()) {
    CHECK(recovered.code() == Code::kCorruption || recovered.code() == Code::kVersion) << recovered.ToString();
    CHECK(recovered.message().find("/wal/segment-") != std::string::npos) << recovered.ToString();
    if (recovered.code() == Code::kCorruption) CheckCut(&kernel, reactor, *salvaged);
    return;
  }
  const Status again = *kernel.RunTask(*reactor, Recover(reactor, &after));
  CHECK(again.ok()) << again.ToString();
  // The recovery may drop segments in which nothing is needed any more, and the fault with them.
  CHECK(std::includes(before.broken.begin(), before.broken.end(), after.broken.begin(), after.broken.end()))
      << "a partition was broken by a recovery";
  // What follows in a broken partition is not delivered, and what comes before passed-over damage may be.
  if (passed_over || !before.broken.empty()) return;
  CHECK(before.NotReleased() == after.NotReleased()) << "the recovered log has other records than the log before";
}

}  // namespace
}  // namespace pando

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  FLAGS_minloglevel = google::GLOG_ERROR;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  {
    // The decoders alone, on the unmodified bytes.
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    SegmentHeader header;
    DecodeSegmentHeader(bytes, &header);
    BatchView batch;
    for (uint64_t at = 0; at <= size; at += 8) DecodeBatch(bytes, 1, at, 0, &batch);
  }
  Script script(data, size);
  CheckDirectory(&script);
  return 0;
}
