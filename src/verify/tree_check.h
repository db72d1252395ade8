// TreeCheck: walks one frozen tree as it is on disk and verifies all of it: checksums, the
// structure of every page, key order, fences against the parent's separators, generations, levels, page
// numbers, versions, aggregates against the references, and overflow values against their hashes.
// `kvadmin check` uses it on a stopped store, the scrubber (scrub.h) on a running one, and whoever makes a
// partition of pages that come from elsewhere (copied_tree.h).
//
// It reads into its own buffers and bypasses the buffer pool, because the pool may differ from the
// disk. The caller must ensure that nothing reachable from the root is overwritten during the walk.
//
// The host may cut a walk short. Another TreeCheck can continue it later, in a newer tree:
// resume_key() is the first key that has not been verified.
//
// Threads: one reactor. Memory: with one read in flight, one page per level plus the value being
// read.
#pragma once

#include <cstdint>
#include <string>

#include "src/btree/tree_node.h"
#include "src/io/file.h"
#include "src/io/sync.h"
#include "src/model/types.h"
#include "src/verify/tree_form.h"

namespace pando {

// The source of the pages: a partition's file, or a backup of it.
class PageSource {
 public:
  // Reads the extent's bytes. `checksum` is the checksum in the reference to them; the caller
  // compares it. kCorruption: the source does not have the extent.
  virtual Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) = 0;

 protected:
  ~PageSource() = default;
};

class FilePages final : public PageSource {
 public:
  explicit FilePages(File* file) : file_(file) {}
  Task<Status> Read(Extent extent, uint64_t checksum, char* bytes) override;

 private:
  File* const file_;
};

class TreeCheckHost {
 public:
  // Called before every read. False: the walk ends without further reads.
  virtual Task<bool> MayRead(uint64_t bytes) = 0;
  // Called before an extent is read. False: the extent must not be read, and the host has reported
  // that.
  virtual bool OnExtent(Extent extent, std::string_view owner) = 0;
  virtual void OnProblem(uint64_t offset_bytes, std::string what, std::string_view advice) = 0;

 protected:
  ~TreeCheckHost() = default;
};

struct TreeCheckCounts {
  uint64_t inner_pages = 0, leaf_pages = 0, overflow_values = 0;
  uint64_t blocks = 0;  // read
  uint64_t records = 0, bytes = 0, content_hash = 0;
  uint64_t leaf_used_bytes = 0;
};

class TreeCheck {
 public:
  struct Options {
    Reactor* reactor = nullptr;
    PageSource* pages = nullptr;
    TreeForm form;
    // No record is newer than its last_version, no page has its next_page_id or a higher number, and its
    // generation ended with its root.
    SnapshotRoot root;
    size_t leaves_in_flight = 1;
    // Everything before it has been verified; requires leaves_in_flight == 1.
    std::string resume_key;
  };
  TreeCheck(Options options, TreeCheckHost* host)
      : options_(std::move(options)),
        usable_bytes_(UsablePageBytes(options_.form.page_bytes, options_.form.seal_bytes)),
        host_(host),
        slots_(*options_.reactor),
        resume_key_(options_.resume_key) {}

  Task<void> Run();

  const TreeCheckCounts& counts() const { return counts_; }
  // True if the host ended the walk before its end.
  bool stopped() const { return stopped_; }
  const std::string& resume_key() const { return resume_key_; }
  // True if resume_key() has moved past Options::resume_key.
  bool advanced() const { return advanced_; }

 private:
  struct Expected {
    std::string lower, upper;
    bool has_upper;
    uint8_t level;
    Generation newest_birth;  // no child is younger than its parent
  };
  Task<bool> Allowed(uint64_t bytes);
  Task<Status> ReadExtent(Extent extent, uint64_t checksum, AlignedBuffer* bytes);
  Task<Status> ReadPage(const ChildRef* ref, AlignedBuffer* bytes);
  Task<void> CheckPage(ChildRef ref, Expected expected);
  void CheckHeader(const TreeNode& node, const ChildRef& ref, const Expected& expected);
  void CheckAggregates(const TreeNode& node, const ChildRef& ref);
  Task<void> CheckChildren(TreeNode node, Generation birth);
  Task<void> CheckChild(ChildRef ref, Expected expected, size_t* in_flight);
  const char* WrongWith(const RecordView& record, std::string_view key, Generation birth) const;
  bool MayHold(std::string_view stored) const;
  Task<void> CheckRecords(TreeNode node, uint64_t at);
  Task<void> CheckOverflow(OverflowRef ref, uint32_t value_bytes, std::string key);
  void Advance(std::string key);
  void Problem(uint64_t offset_bytes, std::string what, std::string_view advice) {
    host_->OnProblem(offset_bytes, std::move(what), advice);
  }

  const Options options_;
  const uint32_t usable_bytes_;  // of a page (page.h)
  TreeCheckHost* const host_;
  uint64_t root_id_ = 0;  // number of the root, once that was read
  WaitQueue slots_;
  TreeCheckCounts counts_;
  bool stopped_ = false, advanced_ = false;
  std::string resume_key_;
};

}  // namespace pando
