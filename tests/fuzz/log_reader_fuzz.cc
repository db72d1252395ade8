// Fuzzes the log reader and recovery: builds a log directory from the input, then reads and
// recovers it on the simulated kernel.
//
// The input is a script that lays out up to four segments: correct batches, batches with a valid
// checksum but false contents (about their place, their predecessor, or what was durable), raw
// bytes, flipped bits, and missing files. For every input, no read is out of bounds, no CHECK
// fails, and corruption is an error that names a file. If the log can be read, recovering it gives
// the same records, and reading the recovered log gives them again.
#include <glog/logging.h>

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/codec.h"
#include "src/wal/log.h"
#include "src/wal/log_reader.h"
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

  void Batch(Script* script, uint32_t flags, bool honest, bool present) {
    const uint8_t kind = script->Byte();
    BatchHeader h{};
    h.flags = flags | (kind & 1 ? 0 : kBatchEndsGroup);
    const bool empty = flags == kBatchCut || kind % 16 == 15;
    std::string records;
    Chain& chain = chains_[kind / 16 % 3];
    if (!empty) {
      h.partition = Uuid{7, 1u + kind / 16 % 3};
      h.record_count = 1 + kind / 4 % 3;
      h.first_lsn = chain.next;
      h.previous_checksum = chain.checksum;
      if (chain.checksum == 0) h.flags |= kBatchStartsStream;
      records.assign(h.record_count * (1 + script->Byte() * 8u), 'x');
    }
    if (offset_ + BatchBytes(records.size()) > kSegmentBytes) return;
    h.segment_number = number_;
    h.position = MakePosition(number_, offset_);
    h.previous_end = group_previous_;
    h.durable_position = kind & 2 ? durable_ : group_previous_;
    if (!honest) {
      const uint8_t lie = script->Byte();
      if (lie & 1) h.previous_end = MakePosition(script->Byte() % 5, script->Word());
      if (lie & 2) h.durable_position = MakePosition(script->Byte() % 5, script->Word());
      if (lie & 4) h.first_lsn += script->Byte();
      if (lie & 8) h.flags = script->Byte();
      if (lie & 16) h.record_count = script->Byte();
      if (lie & 32) h.position += script->Byte() * 8;
      if (lie & 64) h.segment_number = script->Byte() % 5;
    }
    std::string bytes(BatchBytes(records.size()), '\0');
    const uint64_t checksum = EncodeBatch(h, LogChecksumSeed(kNode), records, bytes.data());
    if (present) image_.replace(offset_, bytes.size(), bytes);
    if (!empty) chain = {h.first_lsn + h.record_count, checksum};
    offset_ += bytes.size();
    if (h.flags & kBatchEndsGroup) {
      if (kind & 4) durable_ = group_previous_;
      group_previous_ = MakePosition(number_, offset_);
      offset_ = AlignUp(offset_, kBlockBytes);
    }
  }

  struct Chain {
    Lsn next = 1;
    uint64_t checksum = 0;
  };
  uint64_t number_ = 0, offset_ = 0;
  std::string image_;
  Chain chains_[3];
  LogPosition group_previous_ = 0, durable_ = 0;
};

struct Found {
  Uuid partition;
  Lsn first = 0;
  uint32_t count = 0;
  std::string records;
  bool operator==(const Found&) const = default;
};

Task<Status> ReadAll(Reactor* reactor, std::vector<Found>* found) {
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
    last = entry.end;
    if (entry.header.record_count == 0) continue;
    found->push_back(
        {entry.header.partition, entry.header.first_lsn, entry.header.record_count, std::string(entry.records)});
  }
}

struct Sink final : LogReplaySink {
  Task<Status> OnBatch(const RecoveredBatch& batch) override {
    found.push_back({batch.partition, batch.first_lsn, batch.record_count, std::string(batch.records)});
    co_return Status();
  }
  std::vector<Found> found;
};

Task<Status> Recover(Reactor* reactor, Sink* sink) {
  LogOptions options;
  options.directory = kDirectory;
  options.node = kNode;
  options.segment_bytes = kSegmentBytes;
  options.max_group_bytes = 8192;
  options.budget_bytes = 4 * kSegmentBytes;
  options.sync_mode = LogOptions::SyncMode::kDataSyncWrite;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<Log> log, co_await Log::Open(*reactor, std::move(options)));
  Status recovered = co_await log->Recover(sink);
  Status closed = co_await log->Close();
  CO_RETURN_IF_ERROR(std::move(recovered));
  co_return closed;
}

void CheckDirectory(Script* script) {
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  machine->disk().WriteAll(std::string(kDirectory) + "/other", "");
  Layout().Run(script, &machine->disk());
  SimReactor* reactor = machine->Boot();
  std::vector<Found> before, after;
  const Status read = *kernel.RunTask(*reactor, ReadAll(reactor, &before));
  Sink sink;
  const Status recovered = *kernel.RunTask(*reactor, Recover(reactor, &sink));
  CHECK(read.code() == recovered.code()) << read.ToString() << " / " << recovered.ToString();
  if (!read.ok()) {
    CHECK(read.code() == Code::kCorruption || read.code() == Code::kVersion) << read.ToString();
    CHECK(read.message().find("/wal/segment-") != std::string::npos) << read.ToString();
    return;
  }
  CHECK(before == sink.found) << "recovery found other records than the reader";
  const Status again = *kernel.RunTask(*reactor, ReadAll(reactor, &after));
  CHECK(again.ok()) << again.ToString();
  CHECK(before == after) << "the recovered log has other records than the log before";
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
