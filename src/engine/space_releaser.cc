#include "src/engine/space_releaser.h"

#include <algorithm>

#include "src/partition/replica.h"

namespace pando {
namespace {

constexpr Nanos kTick = 20 * kMillisecond;  // short, so that stopping does not wait long
constexpr size_t kLooksPerTick = 4;         // SR3
constexpr uint64_t kKeepShare = 8;
constexpr uint64_t kChunkBytes = ExtentAllocator::kChunkBlocks * kBlockBytes;

}  // namespace

SpaceReleaser::SpaceReleaser(Reactor& reactor, SpaceReleaseOptions options) : reactor_(reactor), options_(options) {}

void SpaceReleaser::Add(Replica* replica) {
  Watched& watched = watched_[replica->id()];
  watched.replica = replica;
  watched.period_end_ns = reactor_.NowNs() + options_.after_ns;
}

void SpaceReleaser::Remove(Replica* replica) {
  const auto found = watched_.find(replica->id());
  if (found == watched_.end()) return;
  stats_.refused_files -= found->second.refused;
  watched_.erase(found);
}

Task<void> SpaceReleaser::Run() {
  if (options_.bytes_per_s == 0) co_return;
  for (Nanos last_ns = reactor_.NowNs(); !stopping_;) {
    co_await Sleep(reactor_, kTick);
    AddCredit(reactor_.NowNs() - std::exchange(last_ns, reactor_.NowNs()));
    for (size_t i = std::min(kLooksPerTick, watched_.size()); i > 0 && !stopping_; --i) co_await LookAtNext();
  }
}

void SpaceReleaser::AddCredit(Nanos passed_ns) {
  // At least one piece, so that a slow rate can save up for it.
  const uint64_t most = std::max(kPieceBlocks * kBlockBytes, options_.bytes_per_s / 10);
  credit_bytes_ += static_cast<uint64_t>(static_cast<double>(options_.bytes_per_s) * static_cast<double>(passed_ns) /
                                         static_cast<double>(kSecond));
  credit_bytes_ = std::min(credit_bytes_, most);
}

Task<void> SpaceReleaser::LookAtNext() {
  auto next = watched_.lower_bound(next_id_);
  if (next == watched_.end()) next = watched_.begin();
  if (next == watched_.end()) co_return;
  const uint32_t id = next->first;
  next_id_ = id + 1;
  Watched& watched = next->second;
  if (!watched.replica->serving()) co_return;
  const ActiveCall hold = watched.replica->Hold();  // PL1: until the end of this look
  const uint64_t surplus = Surplus(&watched);
  if (surplus >= ExtentAllocator::kChunkBlocks && !watched.refused) co_await Release(&watched);
  if (reactor_.NowNs() < watched.period_end_ns) co_return;
  watched.period_end_ns = reactor_.NowNs() + options_.after_ns;
  watched.low_before = std::exchange(watched.low_now, UINT64_MAX);
}

// Blocks that have been free all the time and will probably not be needed soon.
uint64_t SpaceReleaser::Surplus(Watched* watched) const {
  const ExtentAllocator& allocator = watched->replica->partition_file().allocator();
  const uint64_t spare = allocator.free_blocks() + allocator.set_aside_blocks() - allocator.hole_blocks();
  watched->low_now = std::min(watched->low_now, spare);
  const uint64_t keep = watched->replica->block_admission().BlocksToKeepFree() +
                        std::max(options_.min_keep_blocks, allocator.used_blocks() / kKeepShare);
  const uint64_t low = std::min(watched->low_before, watched->low_now);
  return low > keep ? low - keep : 0;
}

Task<void> SpaceReleaser::Release(Watched* watched) {
  CHECK(!watched->refused) << "SR2: the file system has refused to punch holes into this file before";
  PartitionFile& file = watched->replica->mutable_partition_file();
  while (!stopping_ && watched->replica->serving() && credit_bytes_ >= kChunkBytes) {
    const uint64_t blocks = std::min({Surplus(watched), kPieceBlocks, credit_bytes_ / kBlockBytes});
    if (blocks < ExtentAllocator::kChunkBlocks) co_return;
    Result<uint64_t> released = co_await file.ReleaseSpace(
        blocks, watched->replica->block_admission().BlocksToKeepFree() + options_.min_keep_blocks);
    if (!released.ok()) {
      // No harm is done: the space stays in the file for later writes.
      watched->refused = true;
      ++stats_.refused_files;
      LOG(WARNING) << "space freed by deletes stays in the file: " << released.status().ToString();
      co_return;
    }
    if (*released == 0) co_return;
    stats_.bytes_total += *released * kBlockBytes;
    credit_bytes_ -= std::min(credit_bytes_, *released * kBlockBytes);
  }
}

}  // namespace pando
