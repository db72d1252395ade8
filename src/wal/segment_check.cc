#include "src/wal/segment_check.h"

#include <algorithm>

#include "src/base/codec.h"

namespace pando {
namespace {

constexpr uint64_t kWindowBytes = 512u << 10;
constexpr Nanos kOpenRetryNs = 100 * kMillisecond;

class SegmentChecker {
 public:
  SegmentChecker(DurableSegment segment, const Uuid& node, BatchChain* chain,
                 std::function<Task<bool>(uint64_t)> may_read)
      : segment_(std::move(segment)),
        node_(node),
        seed_(LogChecksumSeed(node)),
        chain_(chain),
        may_read_(std::move(may_read)) {}

  Task<SegmentVerdict> Run() {
    const std::string name = SegmentFileName(segment_.number);
    Result<File> opened = co_await segment_.directory->OpenFile(name, File::Mode::kRead, /*direct=*/true);
    while (opened.code() == Code::kOverloaded) {  // no free descriptor, which is no sign of damage
      co_await Sleep(segment_.directory->reactor(), kOpenRetryNs);
      const bool allowed = co_await may_read_(kBlockBytes);
      if (!allowed) {
        verdict_.stopped = true;
        co_return verdict_;
      }
      opened = co_await segment_.directory->OpenFile(name, File::Mode::kRead, /*direct=*/true);
    }
    if (!opened.ok()) {
      Damage(0, opened.status().message());
      co_return verdict_;
    }
    file_ = *std::move(opened);
    chain_->EndGroup();
    bool intact = co_await CheckHeader();
    for (uint64_t offset = kFirstGroupOffset; intact && offset < segment_.durable_end;) {
      intact = co_await CheckBatch(&offset);
      if (intact) ++verdict_.batches;
    }
    Status closed = co_await file_.Close();
    LOG_IF(WARNING, !closed.ok()) << closed.ToString();
    co_return verdict_;
  }

 private:
  void Damage(uint64_t offset, std::string what) {
    verdict_.damaged = true;
    verdict_.offset = offset;
    verdict_.what = std::move(what);
  }

  std::string_view At(uint64_t offset) const {
    return {window_.data() + (offset - begin_), static_cast<size_t>(end_ - offset)};
  }

  // Makes the window hold `bytes` from `offset` on. Returns false if the check was stopped or the
  // bytes cannot be read.
  Task<bool> Ensure(uint64_t offset, uint64_t bytes) {
    if (offset >= begin_ && offset + bytes <= end_) co_return true;
    const uint64_t begin = offset / kBlockBytes * kBlockBytes;
    const uint64_t limit = std::min(segment_.bytes, AlignUp(segment_.durable_end, kBlockBytes));
    const uint64_t end = std::min(limit, std::max(begin + kWindowBytes, AlignUp(offset + bytes, kBlockBytes)));
    const bool allowed = co_await may_read_(end - begin);
    if (!allowed) {
      verdict_.stopped = true;
      co_return false;
    }
    if (window_.size() < end - begin) {
      window_ = AlignedBuffer();  // free the old one first, to halve the peak
      window_ = AlignedBuffer(end - begin);
    }
    begin_ = end_ = 0;
    Status status = co_await file_.Read(window_.data(), end - begin, begin);
    if (!status.ok()) {
      Damage(offset, status.message());
      co_return false;
    }
    begin_ = begin;
    end_ = end;
    co_return true;
  }

  Task<bool> CheckHeader() {
    const bool read = co_await Ensure(0, kBlockBytes);
    if (!read) co_return false;
    SegmentHeader header;
    const HeaderState state = DecodeSegmentHeader(At(0).substr(0, kBlockBytes), &header);
    if (state != HeaderState::kValid || header.segment_number != segment_.number || header.node != node_ ||
        header.segment_bytes != segment_.bytes) {
      Damage(0, "the segment header is damaged");
    }
    co_return !verdict_.damaged;
  }

  Task<bool> CheckBatch(uint64_t* offset) {
    const uint64_t room = segment_.durable_end - *offset;
    const bool header_read = co_await Ensure(*offset, std::min(room, uint64_t{sizeof(BatchHeader)}));
    if (!header_read) co_return false;
    if (room >= sizeof(BatchHeader)) {
      // An impossible length is not read. DecodeBatchAt reports it as damage.
      const uint64_t bytes = BatchBytes(LoadLE<BatchHeader>(At(*offset).data()));
      if (bytes <= room) {
        const bool read = co_await Ensure(*offset, bytes);
        if (!read) co_return false;
      }
    }
    BatchView batch;
    const std::string_view bytes = At(*offset).substr(0, room);
    const BatchState state = DecodeBatchAt(bytes, segment_.number, *offset, seed_, &batch);
    if (state != BatchState::kValid) {
      Damage(*offset, fmt::format("a durable batch was written here, but {}", BatchStateName(state)));
      co_return false;
    }
    const uint64_t end = *offset + BatchBytes(batch.header);
    std::string wrong = chain_->Accept(batch.header, MakePosition(segment_.number, end));
    if (!wrong.empty()) {
      Damage(*offset, std::move(wrong));
      co_return false;
    }
    *offset = chain_->in_group() ? end : AlignUp(end, kBlockBytes);
    co_return true;
  }

  const DurableSegment segment_;
  const Uuid node_;
  const uint64_t seed_;
  BatchChain* const chain_;
  const std::function<Task<bool>(uint64_t)> may_read_;
  File file_;
  AlignedBuffer window_;
  uint64_t begin_ = 0, end_ = 0;  // the window's offsets in the segment
  SegmentVerdict verdict_;
};

}  // namespace

Task<SegmentVerdict> CheckSegment(DurableSegment segment, Uuid node, BatchChain* chain,
                                  std::function<Task<bool>(uint64_t)> may_read) {
  SegmentChecker checker(std::move(segment), node, chain, std::move(may_read));
  co_return co_await checker.Run();
}

}  // namespace pando
