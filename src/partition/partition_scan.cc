// PartitionReader: scans of a range, and of what differs between two snapshots.
#include <algorithm>
#include <optional>
#include <utility>

#include "src/base/hash.h"
#include "src/model/key_space.h"
#include "src/partition/partition_reader.h"
#include "src/partition/resident_record.h"

namespace pando {
namespace {
// A scan reads so many leaves ahead, if other scans leave it the memory.
constexpr size_t kReadAheadLeaves = 512, kLeastReadAheadLeaves = 8;
// It looks so much further for leaves that lie beside those that it reads, and looks again when it has used up a
// quarter of what it may read ahead, or half of what it could. The further, the more of them lie together; the more
// often, the busier the disk.
constexpr size_t kHorizon = 2, kLooksPerClaim = 4, kLooksPerCovered = 2;
constexpr size_t kWorthALook = 32;  // leaves, or half of what it may read: fewer would cut reads short
// One scan claims no more than this part of the pool. Leaves that are read because they lie beside others wait for
// longer in the small queue, a tenth of the pool, and must not be evicted before they are used.
constexpr size_t kClaimDivisor = 16;
// A page with such limits is probably followed by the next one, whose first quarter is read ahead, too.
constexpr size_t kLongPageRows = 1000, kLongPageBytes = 1u << 20;
// Leaves are scattered if so many of them took more than one read for each kPagesTogether, or, if they are large, for
// half as many as a chunk has room for.
constexpr size_t kLeastScattered = 16, kPagesTogether = 6;
// Cost of a leaf, in units of the turn's budget, in addition to its records.
constexpr uint32_t kLeafUnits = 16;
constexpr uint32_t kAheadUnits = 8;  // of a leaf that is read ahead
}  // namespace

// The page of rows that a scan collects, and the scan's position, which is spec.start or, in
// reverse, spec.end.
class PartitionReader::Scanner {
 public:
  enum class Step : uint8_t { kMore, kOver, kReadValue };

  Scanner(PartitionState& state, ScanSpec spec)
      : tree_(*state.tree), pool_(state.pool), namespaced_(state.namespaced), claim_(&pool_), spec_(std::move(spec)) {
    if (spec_.max_rows < kLongPageRows || spec_.max_bytes < kLongPageBytes) return;
    rows_beyond_ = spec_.max_rows / 4;
    bytes_beyond_ = spec_.max_bytes / 4;
  }

  const ScanSpec& spec() const { return spec_; }
  ScanPage& page() { return page_; }
  const std::string& position() const { return spec_.reverse ? spec_.end : spec_.start; }

  Step AddRow(const TreeNode& node, uint32_t slot, int64_t now_ms);
  // The same for a scan of one slice, which may have to look at many records for a row.
  Step Examine(const TreeNode& node, uint32_t slot, int64_t now_ms);
  Step AddRemoved(std::string_view key);
  // Takes the rows of one leaf and moves on: past the leaf, or to the row whose value must be read.
  Step AddLeaf(const TreeNode& node, int64_t now_ms) {
    return spec_.reverse ? AddLeafBackwards(node, now_ms) : AddLeafForwards(node, now_ms);
  }

  // -- read-ahead
  bool WantsReadAhead() const { return leaves_ahead_ == 0 || (!all_ahead_ && leaves_since_look_ >= look_after_); }
  ScanAhead ToCome();
  void NoteReadAhead(const LeavesAhead& covered) {
    leaves_ahead_ = covered.leaves;
    leaves_since_look_ = 0;
    const size_t may_read = std::max(claimed_, kLeastReadAheadLeaves);
    const size_t used_up = std::max(may_read / kLooksPerClaim, std::min(may_read / 2, kWorthALook));
    look_after_ = std::max<size_t>(std::min(used_up, covered.leaves / kLooksPerCovered), 1);
    all_ahead_ = covered.all;
    claimed_ = claim_.Resize(std::min(claimed_, covered.looked_at));
  }
  // Leaves that took more reads than they should.
  struct Scattered {
    std::string from;
    size_t leaves = 0;
  };
  // Adds what was covered from the position on. A single look may read too few leaves to tell.
  std::optional<Scattered> JudgeReads(const LeavesAhead& covered);

  // -- the row that AddRow could not add because its value is not resident (kReadValue)
  OverflowRef unread_ref() const { return unread_ref_; }
  uint32_t unread_bytes() const { return unread_bytes_; }
  Step AddUnread(std::string value);

 private:
  Step AddLeafForwards(const TreeNode& node, int64_t now_ms);
  Step AddLeafBackwards(const TreeNode& node, int64_t now_ms);
  void StopBefore(std::string key);
  void NoteLeafOver() {
    if (leaves_ahead_ > 0) --leaves_ahead_;
    ++leaves_since_look_;
  }
  Step Push(const ScanRow& row);

  Tree& tree_;
  BufferPool& pool_;
  const bool namespaced_;
  ReadAheadClaim claim_;
  ScanSpec spec_;
  ScanPage page_;
  ScanRow unread_;  // its key is the scan's position
  OverflowRef unread_ref_;
  uint32_t unread_bytes_ = 0;
  size_t claimed_ = 0;
  size_t leaves_ahead_ = 0;  // from the scan's position on: in memory, or being read
  size_t leaves_since_look_ = 0, look_after_ = 0;
  size_t rows_beyond_ = 0, bytes_beyond_ = 0;  // of the next page, to be read ahead
  bool all_ahead_ = false;                     // they are all that the scan needs
  Scattered judged_;                           // the leaves of which these reads were
  size_t judged_pages_ = 0, judged_reads_ = 0;
};

ScanAhead PartitionReader::Scanner::ToCome() {
  ScanAhead scan;
  scan.from = position();
  scan.bound = spec_.reverse ? spec_.start : spec_.end;
  scan.reverse = spec_.reverse;
  // How many records of a slice's leaves are rows is not known.
  const size_t rows = spec_.slice.all() ? spec_.max_rows - page_.rows.size() : spec_.max_examined - page_.examined;
  scan.rows = rows + std::min(rows_beyond_, SIZE_MAX - rows);
  const size_t bytes = std::min(spec_.max_bytes, spec_.hard_bytes);
  scan.bytes = spec_.keys_only || spec_.sizes_only ? SIZE_MAX : bytes + std::min(bytes_beyond_, SIZE_MAX - bytes);
  const size_t most = std::min(kReadAheadLeaves, pool_.frame_count() / kClaimDivisor);
  claimed_ = claim_.Resize(std::min<size_t>(scan.rows, most));
  scan.leaves = std::max(claimed_ * kHorizon, kLeastReadAheadLeaves);
  scan.most_pages = std::max(claimed_, kLeastReadAheadLeaves);
  return scan;
}

std::optional<PartitionReader::Scanner::Scattered> PartitionReader::Scanner::JudgeReads(const LeavesAhead& covered) {
  if (judged_pages_ == 0) judged_ = {position(), 0};
  judged_.leaves += all_ahead_ ? covered.leaves : std::min(covered.leaves, look_after_);
  judged_pages_ += covered.pages;
  judged_reads_ += covered.reads;
  if (judged_pages_ < kLeastScattered) return std::nullopt;
  const size_t half_a_chunk = ExtentAllocator::kChunkBlocks * kBlockBytes / pool_.page_bytes() / 2;
  const bool scattered = judged_pages_ < std::min(kPagesTogether, half_a_chunk) * judged_reads_;
  judged_pages_ = judged_reads_ = 0;
  return scattered ? std::optional(std::move(judged_)) : std::nullopt;
}

PartitionReader::Scanner::Step PartitionReader::Scanner::Push(const ScanRow& row) {
  spec_.hard_bytes -= std::min(spec_.hard_bytes, row.bytes());
  spec_.max_bytes -= std::min(spec_.max_bytes, row.bytes());
  page_.rows.push_back(row);
  return page_.rows.size() >= spec_.max_rows || spec_.max_bytes == 0 ? Step::kOver : Step::kMore;
}

PartitionReader::Scanner::Step PartitionReader::Scanner::AddRow(const TreeNode& node, uint32_t slot, int64_t now_ms) {
  const RecordView r = node.Record(slot);
  if (HasExpired(r.expires_at_ms, now_ms)) return Step::kMore;
  ScanRow row;
  row.version = r.version;
  row.expires_at_ms = r.expires_at_ms;
  const bool with_value = !spec_.keys_only && !spec_.sizes_only;
  if (spec_.sizes_only) row.value_bytes = static_cast<uint32_t>(ValueBytes(r));
  const size_t value_bytes = with_value ? ValueBytes(r) : 0;
  const bool fits = node.prefix().size() + r.key_suffix.size() + value_bytes <= spec_.hard_bytes;
  if (!fits && !page_.rows.empty()) return Step::kOver;
  const Frame* value = nullptr;
  if (fits && with_value && r.overflow) {
    value = tree_.FindOverflow(r.overflow_ref);
    if (!value) {
      StopBefore(node.Key(slot));
      unread_ = row;
      unread_ref_ = r.overflow_ref;
      unread_bytes_ = r.value_bytes;
      return Step::kReadValue;
    }
  }
  row.key = page_.bytes.Copy(node.prefix(), r.key_suffix);
  if (!fits) {
    row.unread_bytes = static_cast<uint32_t>(value_bytes);
    Push(row);
    return Step::kOver;
  }
  if (value) {
    std::string bytes;
    pool_.CopyOverflow(*value, &bytes);
    row.value = page_.bytes.Adopt(std::move(bytes));
  } else if (with_value) {
    row.value = page_.bytes.Copy(r.value);
  }
  return Push(row);
}

// Afterwards the scan's position is such that this row is the next one.
void PartitionReader::Scanner::StopBefore(std::string key) {
  if (!spec_.reverse) {
    spec_.start = std::move(key);
  } else {
    spec_.end = std::move(key);
    spec_.end.push_back('\0');
  }
}

PartitionReader::Scanner::Step PartitionReader::Scanner::Examine(const TreeNode& node, uint32_t slot, int64_t now_ms) {
  if (spec_.slice.all()) return AddRow(node, slot, now_ms);
  ++page_.examined;
  std::string key = node.Key(slot);
  const SplitKey split = SplitStoredKey(key, namespaced_);
  const bool wanted = spec_.slice.Has(HashId(split.key, split.namespace_id));
  const Step step = wanted ? AddRow(node, slot, now_ms) : Step::kMore;
  if (step != Step::kMore || page_.examined < spec_.max_examined) return step;
  page_.examined_to = std::move(key);
  return Step::kOver;
}

PartitionReader::Scanner::Step PartitionReader::Scanner::AddRemoved(std::string_view key) {
  ScanRow removed;
  removed.key = page_.bytes.Copy(key);
  removed.removed = true;
  return Push(removed);
}

PartitionReader::Scanner::Step PartitionReader::Scanner::AddUnread(std::string value) {
  if (spec_.reverse) spec_.end.pop_back();
  unread_.key = page_.bytes.Copy(position());
  unread_.value = page_.bytes.Adopt(std::move(value));
  if (!spec_.reverse) spec_.start.push_back('\0');
  return Push(unread_);
}

PartitionReader::Scanner::Step PartitionReader::Scanner::AddLeafForwards(const TreeNode& node, int64_t now_ms) {
  bool exact = false;
  const bool last = !node.has_upper() || (!spec_.end.empty() && node.upper() >= spec_.end);
  const uint32_t end = last && !spec_.end.empty() ? node.LowerBound(spec_.end, &exact) : node.count();
  for (uint32_t slot = node.LowerBound(spec_.start, &exact); slot < end; ++slot) {
    if (const Step step = Examine(node, slot, now_ms); step != Step::kMore) return step;
  }
  if (last) {
    page_.exhausted = true;
    return Step::kOver;
  }
  spec_.start = node.upper();
  NoteLeafOver();
  return Step::kMore;
}

// Takes rows below spec.end (empty = unbounded) down to spec.start.
PartitionReader::Scanner::Step PartitionReader::Scanner::AddLeafBackwards(const TreeNode& node, int64_t now_ms) {
  bool exact = false;
  const bool whole = spec_.end.empty() || (node.has_upper() && spec_.end >= node.upper());
  const bool last = node.lower().empty() || node.lower() <= spec_.start;
  const uint32_t first = last && !spec_.start.empty() ? node.LowerBound(spec_.start, &exact) : 0;
  for (uint32_t slot = whole ? node.count() : node.LowerBound(spec_.end, &exact); slot > first;) {
    if (const Step step = Examine(node, --slot, now_ms); step != Step::kMore) return step;
  }
  if (last) {
    page_.exhausted = true;
    return Step::kOver;
  }
  spec_.end = node.lower();
  NoteLeafOver();
  return Step::kMore;
}

Task<Result<ScanPage>> PartitionReader::Scan(ScanSpec spec) {
  if (state_.failed()) co_return state_.Refusal();
  const ActiveCall call(&state_);
  ++state_.stats.scans_total;
  if (spec.start_exclusive) spec.start.push_back('\0');  // the next key after it
  if (spec.end_inclusive) spec.end.push_back('\0');
  if (spec.max_rows == 0 || (!spec.end.empty() && spec.start >= spec.end)) {
    ScanPage page;
    page.exhausted = spec.max_rows != 0;
    co_return page;
  }
  spec.max_bytes = std::max<size_t>(spec.max_bytes, 1);
  if (spec.since != 0) co_return co_await ScanChanges(std::move(spec));
  TurnSlice slice(state_.pool.turn());
  const SnapshotId snapshot = spec.snapshot;
  const bool reverse = spec.reverse;
  Scanner scanner(state_, std::move(spec));
  bool looked_ahead = false;  // at this position
  for (Scanner::Step step = Scanner::Step::kMore; step != Scanner::Step::kOver;) {
    if (state_.failed()) co_return state_.Refusal();
    CO_ASSIGN_OR_RETURN(ReadView view, snapshots_.ViewOf(snapshot));
    if (!std::exchange(looked_ahead, false) && scanner.WantsReadAhead()) {
      const LeavesAhead covered = state_.tree->ReadAhead(view.generation, scanner.ToCome(), &state_.tasks);
      scanner.NoteReadAhead(covered);
      // The pages of a snapshot stay where they are. Rows without values are often those of a range to be deleted.
      const bool may_gather = view.generation == 0 && !reverse && !scanner.spec().keys_only;
      if (may_gather) {
        if (const auto scattered = scanner.JudgeReads(covered))
          gatherer_.GatherSoon(scattered->from, scattered->leaves);
      }
      // The scan's position is a key.
      if (slice.Spend(static_cast<uint32_t>(covered.looked_at) * kAheadUnits)) {
        looked_ahead = true;
        co_await Yield(state_.reactor);
        continue;
      }
    }
    CO_ASSIGN_OR_RETURN(PagePin leaf, co_await FetchLeaf(view, scanner.position(), reverse));
    if (!leaf) co_return snapshots_.Gone(snapshot);
    const TreeNode node = state_.tree->NodeOf(leaf.frame());
    step = scanner.AddLeaf(node, view.now_ms);
    const uint32_t work = kLeafUnits + node.count();
    leaf.Release();
    // PR1: the scan's position is a key, so it can yield here. Leaves full of expired records and
    // long pages of rows must not occupy the reactor.
    if (step == Scanner::Step::kMore && slice.Spend(work)) co_await Yield(state_.reactor);
    if (step != Scanner::Step::kReadValue) continue;
    std::string value;
    Status status = co_await ReadOverflow(snapshot, scanner.unread_ref(), scanner.unread_bytes(), &value);
    if (status.code() == Code::kAborted) continue;  // the scan is still at this row
    CO_RETURN_IF_ERROR(status);
    step = scanner.AddUnread(std::move(value));
  }
  co_return std::move(scanner.page());
}

// -- changes since an older snapshot

namespace {

// Collects the rows of one page. An overflow value that is not resident ends the walk. It is then
// read, and the walk continues.
template <typename Scanner>
class ChangeGatherer final : public DiffVisitor {
 public:
  ChangeGatherer(Scanner* scanner, int64_t now_ms) : scanner_(*scanner), now_ms_(now_ms) {}

  bool OnChange(const TreeNode* older, uint32_t older_slot, const TreeNode* newer, uint32_t newer_slot) override {
    const size_t rows = scanner_.page().rows.size();
    step = newer ? scanner_.AddRow(*newer, newer_slot, now_ms_) : Scanner::Step::kMore;
    // The record was removed or has expired, which is the same to the reader.
    if (step == Scanner::Step::kMore && scanner_.page().rows.size() == rows && older) {
      step = scanner_.AddRemoved(older->Key(older_slot));
    }
    return step != Scanner::Step::kMore;
  }

  typename Scanner::Step step = Scanner::Step::kMore;

 private:
  Scanner& scanner_;
  const int64_t now_ms_;
};

}  // namespace

Task<Result<ScanPage>> PartitionReader::ScanChanges(ScanSpec spec) {
  CHECK(!spec.reverse) << "changes are scanned forwards";
  const SnapshotId since = spec.since, snapshot = spec.snapshot;
  Scanner scanner(state_, std::move(spec));
  for (Scanner::Step step = Scanner::Step::kMore; step != Scanner::Step::kOver;) {
    if (state_.failed()) co_return state_.Refusal();
    CO_ASSIGN_OR_RETURN(ReadView older, snapshots_.ViewOf(since));
    CO_ASSIGN_OR_RETURN(ReadView newer, snapshots_.ViewOf(snapshot));
    if (newer.generation != 0 && newer.generation < older.generation) {
      co_return Error(Code::kInvalidArgument, "the snapshot to compare with is younger than the one to read");
    }
    ChangeGatherer gatherer(&scanner, newer.now_ms);
    CO_RETURN_IF_ERROR(co_await state_.tree->Diff(older.generation, newer.generation, scanner.spec().start,
                                                  scanner.spec().end, &gatherer));
    if (gatherer.step == Scanner::Step::kMore) scanner.page().exhausted = true;
    if (gatherer.step != Scanner::Step::kReadValue) break;
    std::string value;
    Status status = co_await ReadOverflow(snapshot, scanner.unread_ref(), scanner.unread_bytes(), &value);
    if (status.code() == Code::kAborted) continue;  // the walk is still at this row
    CO_RETURN_IF_ERROR(status);
    step = scanner.AddUnread(std::move(value));
  }
  co_return std::move(scanner.page());
}

}  // namespace pando
