#include "src/verify/scrub.h"

#include <algorithm>

#include "src/partition/replica.h"
#include "src/verify/tree_check.h"
#include "src/wal/segment_check.h"

namespace pando {
namespace {

// The longest sleep, so that stopping does not wait long.
constexpr Nanos kTick = 20 * kMillisecond;
// A slice ends after this time, or once this share of the blocks in use has died since it began.
// What it retains thus stays a small part of the file.
constexpr Nanos kSliceNs = 10 * kSecond;
constexpr uint64_t kSliceHeldShare = 32;
// Long enough for the engine to see how much space waits for a checkpoint (it looks every 20 ms). A
// hold hides that.
constexpr Nanos kBetweenSlices = 30 * kMillisecond;
constexpr Nanos kFirstPassNs = 3600 * kSecond;  // after the start, unless the interval is shorter
constexpr Nanos kCommitRetry = kMillisecond;    // a checkpoint's last step takes a few flushes
constexpr int kMetadataTries = 100;
constexpr Nanos kLogInterval = 60 * kSecond;  // between log lines about passes that found nothing
// A read that is late by the timer's granularity may be made up for.
constexpr Nanos kLatenessForgiven = 2 * kMillisecond;

constexpr std::string_view kSuperblockAdvice =
    "the other copies are intact, so nothing is lost; every second checkpoint rewrites this one: check again later, "
    "and check the device";
constexpr std::string_view kMetadataAdvice =
    "the node has this metadata in memory and keeps serving, but its next start would refuse this partition: do not "
    "stop it; export the data, then check again after the next checkpoints, which rewrite most of it (but not a file "
    "that "
    "was removed: make a backup then)";
constexpr std::string_view kRetainedLogAdvice =
    "check the device; the next start drops this part of the log, and followers that need it get a copy of their "
    "partition";
constexpr std::string_view kLogAdvice =
    "the node has these records in memory and keeps serving, but its next start would refuse this log: do not stop it; "
    "run kvadmin checkpoint twice and check again, until the log no longer needs the segment";

}  // namespace

// Walks one tree, slice by slice.
class Scrubber::PartitionHost final : public TreeCheckHost {
 public:
  PartitionHost(Scrubber* scrubber, PartitionFile* file) : scrubber_(scrubber), file_(file), pages_(&file->file()) {}

  // Continues the walk for one slice. Returns false if that was not the last slice.
  Task<bool> Slice() {
    const Superblock root = co_await file_->HoldNewest();
    most_held_blocks_ = file_->held_blocks() + file_->allocator().used_blocks() / kSliceHeldShare;
    slice_end_ns_ = scrubber_->reactor_.NowNs() + kSliceNs;
    // The hold keeps the blocks of the tree from being reused while the walk waits for reads and
    // for its rate.
    const TreeForm form = FormOf(*scrubber_->store_);
    check_ = std::make_unique<TreeCheck>(
        TreeCheck::Options{&scrubber_->reactor_, &pages_, form, RootOf(root), /*leaves_in_flight=*/1, resume_key_},
        this);
    counted_ = TreeCheckCounts();
    co_await check_->Run();
    file_->ReleaseGeneration(root.generation);
    Count();
    resume_key_ = check_->resume_key();
    co_return !check_->stopped();
  }

 private:
  // A slice may end only once it has advanced, however slow the pass is.
  Task<bool> MayRead(uint64_t bytes) override {
    Count();
    const bool long_enough = scrubber_->reactor_.NowNs() >= slice_end_ns_ || file_->held_blocks() > most_held_blocks_;
    if (long_enough && check_->advanced()) co_return false;
    co_return co_await scrubber_->Pace(bytes);
  }

  bool OnExtent(Extent extent, std::string_view owner) override {
    if (!extent.empty() && extent.block() + extent.blocks() <= file_->allocator().total_blocks()) return true;
    OnProblem(extent.offset_bytes(),
              fmt::format("{}: its extent of {} blocks lies outside the file", owner, extent.blocks()),
              "keep a copy of the file and restore the partition from a backup or a replica");
    return false;
  }

  void OnProblem(uint64_t offset_bytes, std::string what, std::string_view advice) override {
    scrubber_->Find(file_->options().path, offset_bytes, std::move(what), advice);
  }

  void Count() {
    const TreeCheckCounts& now = check_->counts();
    const uint64_t pages = now.leaf_pages + now.inner_pages - counted_.leaf_pages - counted_.inner_pages;
    scrubber_->report_.pages += pages;
    scrubber_->report_.pages_total += pages;
    scrubber_->report_.values += now.overflow_values - counted_.overflow_values;
    counted_ = now;
  }

  Scrubber* const scrubber_;
  PartitionFile* const file_;
  FilePages pages_;
  std::unique_ptr<TreeCheck> check_;  // of this slice
  std::string resume_key_;
  TreeCheckCounts counted_;
  Nanos slice_end_ns_ = 0;
  uint64_t most_held_blocks_ = 0;
};

Scrubber::Scrubber(Reactor& reactor, const StoreInfo* store, Log* log, ScrubOptions options)
    : reactor_(reactor), store_(store), log_(log), options_(options) {
  next_pass_ns_ = reactor_.NowNs() + std::min(options_.interval_ns, kFirstPassNs);
}

Scrubber::~Scrubber() = default;

void Scrubber::Add(Replica* replica) { replicas_[replica->id()] = replica; }

void Scrubber::Remove(const Replica* replica) {
  if (replicas_.erase(replica->id()) == 0) return;
  const std::string file = store_->PartitionFilePath(replica->id());
  std::erase_if(report_.findings, [&](const ScrubFinding& f) { return f.problem.file == file; });
}

void Scrubber::StartPass(uint64_t bytes_per_s) {
  const uint64_t background = options_.bytes_per_s > 0 ? options_.bytes_per_s : kDefaultRate;
  asked_rate_ = bytes_per_s > 0 ? bytes_per_s : background;
  // Whoever asks again and again must not keep a pass from ever reaching its end.
  abandon_ = !requested_ || asked_rate_ >= 2 * report_.rate_bytes_per_s;
  report_.running = true;
}

Task<void> Scrubber::Run() {
  while (!stopping_) {
    const bool due = options_.bytes_per_s > 0 && reactor_.NowNs() >= next_pass_ns_;
    if (asked_rate_ == 0 && !due) {
      co_await Sleep(reactor_, kTick);
      continue;
    }
    requested_ = asked_rate_ != 0;
    abandon_ = false;
    report_.rate_bytes_per_s = requested_ ? std::exchange(asked_rate_, 0) : options_.bytes_per_s;
    next_pass_ns_ = reactor_.NowNs() + options_.interval_ns;
    ++report_.passes_started;
    report_.bytes = report_.pages = report_.values = report_.batches = report_.skipped = 0;
    report_.running = true;
    co_await Pass();
    if (!Over()) Finish();
    requested_ = false;
    report_.running = asked_rate_ != 0 && !stopping_;
  }
}

Task<void> Scrubber::Pass() {
  report_.expected_bytes = ExpectedBytes();
  // Partitions may come and go meanwhile.
  for (uint64_t next_id = 0;;) {
    const auto next = replicas_.lower_bound(static_cast<uint32_t>(next_id));
    if (Over() || next_id > UINT32_MAX || next == replicas_.end()) break;
    next_id = uint64_t{next->first} + 1;
    if (!next->second->serving()) continue;  // if it is quarantined, it is known to be damaged
    co_await ScrubPartition(next->second);
  }
  if (!Over()) co_await ScrubLog();
}

Task<void> Scrubber::ScrubPartition(Replica* replica) {
  const ActiveCall hold = replica->Hold();  // PL1
  current_ = replica;
  PartitionFile& file = replica->mutable_partition_file();
  co_await ScrubMetadata(&file);
  co_await ScrubTree(&file);
  current_ = nullptr;
}

bool Scrubber::Ends() const { return Over() || (current_ != nullptr && !current_->serving()); }

// Findings of earlier passes that this one did not see are gone: repaired, or no longer needed.
void Scrubber::Finish() {
  ++report_.passes_finished;
  report_.last_finished_ms = reactor_.WallMs();
  std::erase_if(report_.findings, [this](const ScrubFinding& f) { return f.pass < report_.passes_started; });
  // A client that asks for one pass after the other must not fill the log.
  if (reactor_.NowNs() < next_log_ns_ && report_.findings.empty()) return;
  next_log_ns_ = reactor_.NowNs() + kLogInterval;
  LOG(INFO) << store_->data_dir << ": scrub pass " << report_.passes_started << " of reactor " << reactor_.index()
            << " read " << report_.bytes << " bytes: " << report_.pages << " pages, " << report_.values << " values, "
            << report_.batches << " log batches; findings: " << report_.findings.size();
}

void Scrubber::Find(std::string file, uint64_t offset_bytes, std::string what, std::string_view advice) {
  for (ScrubFinding& f : report_.findings) {
    if (f.problem.offset_bytes != offset_bytes || f.problem.file != file || f.problem.what != what) continue;
    f.pass = report_.passes_started;
    return;
  }
  ++report_.findings_total;
  if (report_.findings.size() >= kMaxFindings) return;
  LOG(ERROR) << "scrub: damage in " << file << " at offset " << offset_bytes << ": " << what << " (" << advice << ")";
  CheckProblem problem{std::move(file), offset_bytes, std::move(what), std::string(advice)};
  report_.findings.push_back({std::move(problem), report_.passes_started, reactor_.WallMs()});
}

uint64_t Scrubber::ExpectedBytes() const {
  uint64_t blocks = 0, log_bytes = 0;
  for (const auto& [id, replica] : replicas_) {
    if (replica->out_of_service()) continue;
    const PartitionFile& file = replica->partition_file();
    blocks += file.allocator().used_blocks();
    for (const DeadExtent& dead : file.dead_of_newest()) blocks -= dead.extent.blocks();
  }
  for (const DurableSegment& s : log_->DurableSegments()) log_bytes += s.durable_end;
  return blocks * kBlockBytes + log_bytes;
}

// Waits until `bytes` bytes may be read. Returns false if the pass is over.
Task<bool> Scrubber::Pace(uint64_t bytes) {
  const Nanos start_ns = paid_until_ns_;
  while (!Ends() && reactor_.NowNs() < start_ns) {
    co_await Sleep(reactor_, std::min(start_ns - reactor_.NowNs(), kTick));
  }
  if (Ends()) co_return false;
  // Time without reads earns no credit, so there are no bursts.
  paid_until_ns_ = std::max(paid_until_ns_, reactor_.NowNs() - kLatenessForgiven);
  paid_until_ns_ +=
      static_cast<Nanos>(static_cast<double>(bytes) * kSecond / static_cast<double>(report_.rate_bytes_per_s));
  report_.bytes += bytes;
  report_.bytes_total += bytes;
  co_return true;
}

// -- metadata: checkpoints replace it, so findings count only if no checkpoint can have done so
// during the read.

Task<void> Scrubber::ScrubMetadata(PartitionFile* file) {
  for (int tries = 0; tries < kMetadataTries; ++tries) {
    const bool allowed = co_await Pace(kSuperblockBlocks * kBlockBytes);
    if (!allowed) co_return;
    while (file->mid_commit() && !Ends()) co_await Sleep(reactor_, kCommitRetry);
    if (Ends()) co_return;
    const Generation before = file->superblock().generation;
    std::vector<CheckProblem> found;
    const uint64_t bytes = co_await ReadMetadata(file, &found);
    if (Ends()) co_return;  // a checkpoint that fails meanwhile is not damage
    const bool stood_still = !file->mid_commit() && file->superblock().generation == before;
    if (stood_still) {
      for (CheckProblem& p : found) Find(std::move(p.file), p.offset_bytes, std::move(p.what), p.advice);
    }
    // There is little metadata, and it must not change while it is read. It is therefore read
    // without pauses and paid for afterwards.
    const bool go_on = co_await Pace(bytes);
    if (!go_on || stood_still || found.empty()) co_return;
  }
  ++report_.skipped;
  LOG(WARNING) << file->options().path
               << ": checkpoints followed each other so closely that the scrub could not read what "
               << "they wrote; this pass skips the superblocks and bitmaps of this file";
}

// Returns the number of bytes read, not counting the superblocks.
Task<uint64_t> Scrubber::ReadMetadata(PartitionFile* file, std::vector<CheckProblem>* found) {
  const std::string& path = file->options().path;
  auto add = [&](uint64_t offset, std::string what, std::string_view advice) {
    found->push_back({path, offset, std::move(what), std::string(advice)});
  };
  const Generation newest = file->superblock().generation;
  AlignedBuffer head(kSuperblockBlocks * kBlockBytes);
  Status status = co_await file->file().Read(head.data(), head.size(), 0);
  if (status.ok()) {
    for (const SuperblockFault& f : JudgeSuperblocks({head.data(), head.size()}, store_->node, file->uuid())) {
      add(f.copy * kBlockBytes, "superblock copy: " + f.what, kSuperblockAdvice);
    }
  } else {
    add(0, status.message(), kSuperblockAdvice);
  }
  std::vector<MetaDamage> damage;
  auto opened = co_await PartitionFile::Open(reactor_, file->options(), /*read_only=*/true, &damage);
  // No descriptor is free, which says nothing about the disk.
  while (opened.code() == Code::kOverloaded && !Ends()) {
    co_await Sleep(reactor_, kCommitRetry);
    opened = co_await PartitionFile::Open(reactor_, file->options(), /*read_only=*/true, &damage);
  }
  if (!opened.ok()) {
    if (opened.code() == Code::kOverloaded) co_return 0;  // the pass is over
    if (found->empty()) add(0, opened.status().message(), kMetadataAdvice);
    co_return 0;
  }
  const Superblock& on_disk = (*opened)->superblock();
  if (on_disk.generation != newest) {
    add(newest % 2 * 2 * kBlockBytes,
        fmt::format("superblock: generation {} is the newest on disk, but the node wrote {}: a write was lost",
                    on_disk.generation, newest),
        kMetadataAdvice);
  }
  for (MetaDamage& d : damage) add(d.offset_bytes, std::move(d.what), kMetadataAdvice);
  uint64_t blocks = 0;
  for (Extent piece : (*opened)->metadata_pieces()) blocks += piece.blocks();
  for (const GroupEntry& group : (*opened)->group_entries()) blocks += group.block != 0;
  Status closed = co_await (*opened)->Close();
  LOG_IF(WARNING, !closed.ok()) << closed.ToString();
  co_return blocks* kBlockBytes;
}

// -- trees

Task<void> Scrubber::ScrubTree(PartitionFile* file) {
  PartitionHost host(this, file);
  while (!Ends()) {
    const bool over = co_await host.Slice();
    if (over) co_return;
    co_await Sleep(reactor_, kBetweenSlices);
  }
}

// -- the log: the segments that are needed when this begins, oldest first, because those are
// released first.

Task<void> Scrubber::ScrubLog() {
  std::vector<DurableSegment> at_start = log_->DurableSegments();
  const uint64_t last = at_start.empty() ? 0 : at_start.back().number;
  BatchChain chain;
  for (uint64_t done = 0; !Over();) {
    std::vector<DurableSegment> live = log_->DurableSegments();
    auto next = std::find_if(live.begin(), live.end(), [&](const DurableSegment& s) { return s.number > done; });
    if (next == live.end() || next->number > last) co_return;
    // Segments were released meanwhile, so the next one does not follow the last one read.
    if (next->number != done + 1) chain = BatchChain();
    done = next->number;
    co_await ScrubSegment(*next, &chain);
  }
}

Task<void> Scrubber::ScrubSegment(DurableSegment segment, BatchChain* chain) {
  auto pace = [this](uint64_t bytes) { return Pace(bytes); };
  std::function<Task<bool>(uint64_t)> may_read = pace;
  SegmentVerdict verdict = co_await CheckSegment(segment, store_->node, chain, std::move(may_read));
  report_.batches += verdict.batches;
  if (!verdict.damaged) co_return;
  *chain = BatchChain();
  if (!log_->IsLive(segment.number)) co_return;
  const std::string_view means = segment.retained
                                     ? "nothing is lost, because only readers of the log may still need this segment"
                                     : "the records from here to the segment's end would be lost if the node ended now";
  Find(segment.path, verdict.offset, fmt::format("log: {}; {}", verdict.what, means),
       segment.retained ? kRetainedLogAdvice : kLogAdvice);
}

}  // namespace pando
