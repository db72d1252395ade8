// Compares TreeNode with std::map: random records are inserted and removed, pages are compacted, split
// and rejoined with other fences.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "src/btree/tree_node.h"
#include "tests/support/seeds.h"
#include "tests/support/sim_random.h"

namespace pando {
namespace {

struct Stored {
  Version version = 0;
  int64_t expires_at_ms = 0;
  std::string value;      // inline
  uint32_t bytes = 0;     // of the value, inline or not
  uint64_t overflow = 0;  // first block of an overflow value; 0 = inline
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        usable_bytes_(UsablePageBytes(kMinPageBytes << random_.Below(5), random_.Below(2) * kSealBytes)) {
    prefix_ = Letters(random_.Below(3) == 0 ? random_.Below(MaxKeyBytes(usable_bytes_) - 40) : random_.Below(12));
    lower_ = prefix_ + "c";
    upper_ = prefix_ + "w";
    has_upper_ = random_.Chance(0.7);
    page_ = NewPage(lower_, has_upper_ ? &upper_ : nullptr);
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      const uint64_t choice = random_.Below(100);
      if (choice < 60) {
        Put();
      } else if (choice < 85) {
        Remove();
      } else if (choice < 87) {
        node().Compact();
        EXPECT_EQ(node().header().heap_dead, 0u);
      } else if (choice < 88) {
        SplitAndJoin();
      } else {
        Find();
      }
      Compare(i % 16 == 0);
    }
  }

 private:
  TreeNode node() { return TreeNode(page_.data(), usable_bytes_); }

  std::string NewPage(std::string_view lower, const std::string* upper) const {
    std::string page(usable_bytes_, '#');
    std::string_view view = upper ? *upper : std::string_view();
    TreeNode::Format(page.data(), usable_bytes_, 0, lower, upper ? &view : nullptr, 1, 1);
    return page;
  }

  std::string Letters(size_t n) {
    std::string s;
    while (s.size() < n) s.push_back("\0\x01gm\xff"[random_.Below(5)]);
    return s;
  }

  // In [lower, upper): the byte after the prefix is one of d to v.
  std::string RandomKey() {
    std::string key = prefix_;
    key.push_back(static_cast<char>('d' + random_.Below(19)));
    const size_t room = MaxKeyBytes(usable_bytes_) - key.size();
    return key + Letters(random_.Chance(0.05) ? room : random_.Below(std::min<size_t>(room + 1, 7)));
  }

  RecordView ViewOf(const std::string& key, const Stored& s) {
    RecordView r;
    r.key_suffix = std::string_view(key).substr(node().header().prefix_bytes);
    r.version = s.version;
    r.expires_at_ms = s.expires_at_ms;
    r.value_bytes = s.bytes;
    r.overflow = s.overflow != 0;
    if (r.overflow) {
      r.overflow_ref = {
          Extent::Of(s.overflow, static_cast<uint32_t>(BlocksForValue(s.bytes, SealBytesOf(usable_bytes_)))), s.version,
          ~s.overflow, s.overflow * 3};
    } else {
      r.value = s.value;
    }
    return r;
  }

  void Put() {
    const std::string key = RandomKey();
    Stored s;
    s.version = random_.Next();
    if (random_.Chance(0.3)) s.expires_at_ms = random_.Between(1, 1'000'000);
    if (random_.Chance(0.2)) {
      s.overflow = 1 + random_.Below(1000);
      s.bytes = 1 + static_cast<uint32_t>(random_.Below(kMaxValueBytes));
    } else {
      s.value = Letters(random_.Below(random_.Chance(0.1) ? usable_bytes_ / 4 : 40));
      s.bytes = static_cast<uint32_t>(s.value.size());
    }
    bool exact = false;
    uint32_t slot = node().LowerBound(key, &exact);
    EXPECT_EQ(exact, model_.contains(key));
    const RecordView record = ViewOf(key, s);
    if (exact) {
      if (node().ReplaceRecord(slot, record)) {
        model_[key] = s;
        return;
      }
      node().Remove(slot);
      model_.erase(key);
    }
    if (!node().Fits(node().SpaceFor(record))) return;
    node().InsertRecord(slot, record);
    model_[key] = s;
  }

  void Remove() {
    if (model_.empty()) return;
    auto it = model_.begin();
    std::advance(it, static_cast<long>(random_.Below(model_.size())));
    bool exact = false;
    const uint32_t slot = node().LowerBound(it->first, &exact);
    EXPECT_TRUE(exact);
    node().Remove(slot);
    model_.erase(it);
  }

  void Find() {
    const std::string key = RandomKey();
    bool exact = false;
    const uint32_t slot = node().LowerBound(key, &exact);
    EXPECT_EQ(slot, std::distance(model_.begin(), model_.lower_bound(key)));
    EXPECT_EQ(exact, model_.contains(key));
  }

  // Splits the page into two halves, whose fences have longer prefixes, and joins them again.
  void SplitAndJoin() {
    const uint32_t count = node().count();
    if (count < 2) return;
    const uint32_t at = 1 + static_cast<uint32_t>(random_.Below(count - 1));
    const std::string middle(ShortestSeparator(node().Key(at - 1), node().Key(at)));
    std::string left = NewPage(lower_, &middle), right = NewPage(middle, has_upper_ ? &upper_ : nullptr);
    TreeNode left_node(left.data(), usable_bytes_), right_node(right.data(), usable_bytes_);
    const auto space = [&](TreeNode& to, uint32_t from, uint32_t end) {
      const uint32_t bytes = TreeNode::SpaceToAppend(node(), from, end, to.header().prefix_bytes);
      if (bytes > to.FreeBytes()) return false;
      const uint32_t free = to.FreeBytes();
      to.AppendFrom(node(), from, end);
      EXPECT_EQ(free - to.FreeBytes(), bytes) << "SpaceToAppend differs from what AppendFrom uses";
      return true;
    };
    // The fences of the halves may take more space than their prefixes save.
    if (!space(left_node, 0, at) || !space(right_node, at, count)) return;
    for (const std::string* half : {&left, &right}) {
      Status status = TreeNode::Validate(half->data(), usable_bytes_);
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
    EXPECT_EQ(left_node.header().prefix_bytes, CommonPrefix(lower_, middle));
    std::string joined = NewPage(lower_, has_upper_ ? &upper_ : nullptr);
    TreeNode joined_node(joined.data(), usable_bytes_);
    joined_node.AppendFrom(left_node, 0, left_node.count());
    joined_node.AppendFrom(right_node, 0, right_node.count());
    page_ = std::move(joined);
  }

  void Compare(bool all) {
    Status status = TreeNode::Validate(page_.data(), usable_bytes_);
    EXPECT_TRUE(status.ok()) << status.ToString();
    TreeNode n = node();
    ASSERT_EQ(n.count(), model_.size());
    uint64_t live = n.lower().size() + n.upper().size();
    for (uint32_t i = 0; i < n.count(); ++i) live += n.RecordBytes(i);
    EXPECT_EQ(live + n.header().heap_dead, usable_bytes_ - n.header().heap_begin) << "N3";
    if (!all) return;
    uint32_t i = 0;
    for (const auto& [key, s] : model_) {
      ASSERT_EQ(n.Key(i), key);
      const RecordView want = ViewOf(key, s), got = n.Record(i);
      ASSERT_EQ(got.version, want.version);
      ASSERT_EQ(got.expires_at_ms, want.expires_at_ms);
      ASSERT_EQ(got.value_bytes, want.value_bytes);
      ASSERT_EQ(got.overflow, want.overflow);
      ASSERT_EQ(got.value, want.value);
      ASSERT_EQ(got.overflow_ref.location, want.overflow_ref.location);
      ASSERT_EQ(got.overflow_ref.birth, want.overflow_ref.birth);
      ASSERT_EQ(got.overflow_ref.checksum, want.overflow_ref.checksum);
      ASSERT_EQ(got.overflow_ref.value_hash, want.overflow_ref.value_hash);
      ++i;
    }
  }

  SimRandom random_;
  const uint32_t usable_bytes_;
  std::string prefix_, lower_, upper_;
  bool has_upper_ = false;
  std::string page_;
  std::map<std::string, Stored> model_;
};

TEST(TreeNode, LikeAMap) {
  for (uint64_t seed : Seeds(20)) {
    SCOPED_TRACE(Replay(seed));
    Simulation(seed).Run(800);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace pando
