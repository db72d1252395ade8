// PartitionModel: the contract of a partition, implemented on a std::map. It is the oracle of the
// model and crash tests.
//
// Threads: a value.
#pragma once

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/base/hash.h"
#include "src/btree/tree_node.h"
#include "src/model/types.h"

namespace pando::engine_test {

struct ModelRecord {
  std::string value;
  Version version = 0;
  int64_t expires_at_ms = 0;
};

// A row of a page that is gone.
struct HeldRow {
  std::string value;
  Version version = 0;
  int64_t expires_at_ms = 0;
  bool removed = false;
};

inline std::string Text(const RangeAggregates& sum) {
  return fmt::format("{} records of {} bytes, hash {:016x}", sum.count, sum.bytes, sum.content_hash);
}

class PartitionModel {
 public:
  using Records = std::map<std::string, ModelRecord>;

  // Applies one operation by itself at `now_ms`, the time of its version. Returns the result that
  // its caller must get.
  OpResult Apply(const WriteOp& op, Version version, int64_t now_ms) {
    OpResult result;
    const ReadResult current = Read(op.key, now_ms);
    result.version = version;
    result.existed = current.found;
    auto refuse = [&](OpOutcome outcome) {
      result.outcome = outcome;
      result.version = current.version;
      result.current = current;
      return result;
    };
    const Condition& c = op.condition;
    if ((c.exists && *c.exists != current.found) || (c.version && (!current.found || current.version != *c.version)) ||
        (c.value && (!current.found || current.value != *c.value)) || (op.op == RecordOp::kTouch && !current.found)) {
      return refuse(OpOutcome::kConditionFailed);
    }
    if (op.return_previous) result.current = current;
    if (op.op == RecordOp::kCheck) {
      result.existed = false;  // a check does not report it
      return result;
    }
    if (op.op == RecordOp::kRemove) {
      records_.erase(op.key);
      return result;
    }
    std::string value = op.op == RecordOp::kTouch ? current.value : op.value;
    if (op.op == RecordOp::kIncrement) {
      int64_t number = 0;
      const std::string& text = current.value;
      if (current.found) {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (text.size() > 20) return refuse(OpOutcome::kNotANumber);
        if (error != std::errc() || end != text.data() + text.size()) return refuse(OpOutcome::kNotANumber);
      }
      if (__builtin_add_overflow(number, op.delta, &number)) {
        result.number = number;
        return refuse(OpOutcome::kOverflow);
      }
      result.number = number;
      value = std::to_string(number);
    }
    int64_t expires = 0;
    if (op.ttl_mode == TtlMode::kKeep) expires = current.expires_at_ms;
    if (op.ttl_mode == TtlMode::kSet) expires = op.ttl_ms > 0 ? VersionMs(version) + op.ttl_ms : op.expires_at_ms;
    records_[op.key] = {std::move(value), version, expires};
    return result;
  }

  // Applies a write whose operations may refuse each other. `versions` are the versions that the
  // operations got, and thereby their times. An operation that got none may have any version that
  // no condition names.
  std::vector<OpResult> ApplyWrite(const std::vector<WriteOp>& ops, WriteOptions options,
                                   const std::vector<Version>& versions) {
    PartitionModel trial;
    for (const WriteOp& op : ops) {
      if (auto it = records_.find(op.key); it != records_.end()) trial.records_.insert(*it);
    }
    const PartitionModel before = trial;
    std::vector<OpResult> results(ops.size());
    bool refused = false, check_failed = false;
    for (size_t i = 0; i < ops.size(); ++i) {
      const bool check = ops[i].op == RecordOp::kCheck;
      if (check_failed && !check) break;
      results[i] = trial.Apply(ops[i], versions[i], VersionMs(versions[i]));
      const bool applied = results[i].outcome == OpOutcome::kApplied;
      refused |= !applied && (check || options.all_or_nothing);
      check_failed |= !applied && check;
    }
    for (size_t i = 0; refused && i < ops.size(); ++i) {
      if (results[i].outcome == OpOutcome::kApplied) {
        results[i] = OpResult();
        results[i].outcome = OpOutcome::kBatchRefused;
        continue;
      }
      results[i].current = before.Read(ops[i].key, VersionMs(versions[i]));
      results[i].version = results[i].current.version;
      results[i].existed = results[i].current.found;
    }
    if (refused) return results;
    for (const WriteOp& op : ops) {
      records_.erase(op.key);
      if (auto it = trial.records_.find(op.key); it != trial.records_.end()) records_.insert(*it);
    }
    return results;
  }

  ReadResult Read(const std::string& key, int64_t now_ms) const {
    ReadResult result;
    auto it = records_.find(key);
    if (it == records_.end() || Expired(it->second, now_ms)) return result;
    result.found = true;
    result.value = it->second.value;
    result.version = it->second.version;
    result.expires_at_ms = it->second.expires_at_ms;
    return result;
  }

  // The keys and values of the page lie in the model.
  ScanPage Scan(const ScanSpec& spec, int64_t now_ms) const {
    ScanPage page;
    size_t bytes = 0;
    auto add = [&](const Records::value_type& r) {  // returns false when the page is full
      if (Expired(r.second, now_ms)) return true;
      const std::string_view value = spec.keys_only ? std::string_view() : r.second.value;
      page.rows.push_back({r.first, value, r.second.version, r.second.expires_at_ms});
      bytes += page.rows.back().bytes();
      return page.rows.size() < spec.max_rows && bytes < spec.max_bytes;
    };
    std::string start = spec.start, end = spec.end;
    if (spec.start_exclusive) start.push_back('\0');
    if (spec.end_inclusive) end.push_back('\0');
    auto first = records_.lower_bound(start);
    auto last = end.empty() ? records_.end() : start >= end ? first : records_.lower_bound(end);
    bool more = true;
    if (spec.reverse) {
      while (more && last != first) more = add(*--last);
    } else {
      for (; more && first != last; ++first) more = add(*first);
    }
    page.exhausted = more;
    return page;
  }

  // Compares `got` with the changes from this model to `newer` at `now_ms`. Returns what is wrong,
  // or "". An expired record may be listed as removed, but need not be.
  std::string Changes(const PartitionModel& newer, int64_t now_ms, const std::map<std::string, HeldRow>& got) const {
    std::set<std::string> keys;
    for (const auto* records : {&records_, &newer.records_}) {
      for (const auto& [key, record] : *records) keys.insert(key);
    }
    for (const auto& [key, row] : got) {
      if (!keys.contains(key)) return fmt::format("'{}' never existed", key);
    }
    for (const std::string& key : keys) {
      auto before = records_.find(key), after = newer.records_.find(key);
      const bool is = after != newer.records_.end() && !Expired(after->second, now_ms);
      const bool expired = after != newer.records_.end() && !is;
      const bool changed = is && (before == records_.end() || before->second.version != after->second.version);
      auto row = got.find(key);
      if (row == got.end()) {
        if (changed) return fmt::format("'{}' is missing", key);
        // A removed record must be listed, unless it had an expiry: the store may have swept it
        // before either snapshot.
        if (!is && !expired && before != records_.end() && before->second.expires_at_ms == 0) {
          return fmt::format("the removal of '{}' is missing", key);
        }
        continue;
      }
      if (row->second.removed == is) return fmt::format("'{}' is wrongly listed as removed or not", key);
      if (is && !changed) return fmt::format("'{}' did not change", key);
      if (is && (row->second.value != after->second.value || row->second.version != after->second.version)) {
        return fmt::format("'{}' has another value or version", key);
      }
    }
    return "";
  }

  RangeAggregates Aggregate(const std::string& start, const std::string& end, int64_t now_ms) const {
    RangeAggregates sum;
    for (auto it = records_.lower_bound(start); it != records_.end() && (end.empty() || it->first < end); ++it) {
      const ModelRecord& r = it->second;
      if (Expired(r, now_ms)) continue;
      const uint64_t hash = RecordHash("", it->first, Hash64(r.value), r.version, r.expires_at_ms);
      sum.Add({1, it->first.size() + r.value.size(), hash});
    }
    return sum;
  }

  // Returns whether a record of [start, end) ("" = no end) expires in (from_ms, to_ms].
  bool ExpiresWithin(const std::string& start, const std::string& end, int64_t from_ms, int64_t to_ms) const {
    for (auto it = records_.lower_bound(start); it != records_.end() && (end.empty() || it->first < end); ++it) {
      const int64_t at = it->second.expires_at_ms;
      if (at != 0 && at > from_ms && at <= to_ms) return true;
    }
    return false;
  }

  Records& records() { return records_; }
  const Records& records() const { return records_; }

 private:
  static bool Expired(const ModelRecord& r, int64_t now_ms) {
    return r.expires_at_ms != 0 && r.expires_at_ms <= now_ms;
  }
  Records records_;
};

// Formats a key for messages: unprintable characters in hex, and long keys shortened in the middle.
inline std::string Printable(std::string_view key) {
  std::string out;
  for (size_t i = 0; i < key.size(); ++i) {
    if (i == 24 && key.size() > 48) {
      out += fmt::format("..({} bytes)..", key.size() - 48);
      i = key.size() - 24;
    }
    const unsigned char c = static_cast<unsigned char>(key[i]);
    if (c > ' ' && c < 127)
      out.push_back(key[i]);
    else
      out += fmt::format("\\x{:02x}", c);
  }
  return out;
}

// Returns "" when both are equal, otherwise the first difference.
inline std::string Difference(const ReadResult& want, const ReadResult& got) {
  if (want.found != got.found) return fmt::format("found {} where {} was expected", got.found, want.found);
  if (want.version != got.version) return fmt::format("version {} where {} was expected", got.version, want.version);
  if (want.expires_at_ms != got.expires_at_ms) {
    return fmt::format("expiry {} where {} was expected", got.expires_at_ms, want.expires_at_ms);
  }
  if (want.value != got.value) {
    return fmt::format("a value of {} bytes differs from the expected one of {}", got.value.size(), want.value.size());
  }
  return "";
}

inline std::string Difference(const OpResult& want, const OpResult& got) {
  if (want.outcome != got.outcome) {
    return fmt::format("outcome {} where {} was expected", static_cast<int>(got.outcome),
                       static_cast<int>(want.outcome));
  }
  if (want.version != got.version) return fmt::format("version {} where {} was expected", got.version, want.version);
  if (want.existed != got.existed) return fmt::format("existed {} where {} was expected", got.existed, want.existed);
  if (want.outcome == OpOutcome::kApplied && want.number != got.number) {
    return fmt::format("number {} where {} was expected", got.number, want.number);
  }
  ReadResult current = want.current;
  if (got.value_omitted) current.value.clear();
  return Difference(current, got.current);
}

inline std::string Difference(const ScanPage& want, const ScanPage& got) {
  for (size_t i = 0; i < std::max(want.rows.size(), got.rows.size()); ++i) {
    if (i >= got.rows.size()) return fmt::format("row {} of {} is missing", i, want.rows.size());
    if (i >= want.rows.size()) return fmt::format("{} rows where {} were expected", got.rows.size(), want.rows.size());
    const ScanRow &w = want.rows[i], &g = got.rows[i];
    if (w.key != g.key) {
      return fmt::format("row {} of {} has key {}, not {} of {}", i, want.rows.size(), Printable(g.key),
                         Printable(w.key), got.rows.size());
    }
    if (w.version != g.version || w.expires_at_ms != g.expires_at_ms)
      return fmt::format("row {} has another version", i);
    if (w.value != g.value) return fmt::format("row {} has another value", i);
  }
  return "";
}

}  // namespace pando::engine_test
