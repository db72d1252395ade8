#include "tools/kvadmin/verified_rows.h"

#include <fmt/format.h>

#include <utility>

#include "src/base/hash.h"
#include "src/base/limits.h"
#include "src/btree/tree_node.h"
#include "src/model/key_space.h"

namespace pando::admin {

namespace {

constexpr KeySpace kSpaces[] = {KeySpace(), KeySpace(kDefaultNamespace)};
constexpr size_t kPrintedKeyColumns = 64;

std::string Bound(std::string_view key, Encoding encoding, std::string_view none) {
  return key.empty() ? std::string(none) : fmt::format("\"{}\"", Printable(key, encoding, kPrintedKeyColumns));
}

}  // namespace

std::string KeyAfter(const std::string& key) {
  if (key.size() < kMaxKeyBytes) return key + '\0';
  // A longer one cannot be named, and no key can be as long.
  std::string after = key;
  while (!after.empty() && after.back() == '\xff') after.pop_back();
  if (!after.empty()) after.back() = static_cast<char>(static_cast<unsigned char>(after.back()) + 1);
  return after;
}

Status CheckOrder(const std::vector<RowView>& rows, const Range& range, std::string_view last_key, Encoding encoding) {
  const auto text = [&](std::string_view key) { return Bound(key, encoding, "\"\""); };
  for (const RowView& row : rows) {
    const bool in_range = row.key >= range.start && (range.end.empty() || row.key < range.end) &&
                          row.key.starts_with(range.prefix) && row.key.size() <= kMaxKeyBytes;
    if (!in_range || row.key <= last_key) {
      return Error(Code::kCorruption,
                   "the server sent a row with the key {}, which is {}. Read the range again, at another node or "
                   "router, and report it",
                   text(row.key),
                   in_range ? fmt::format("out of order: the row before has {}", text(last_key))
                            : "not in the range that was asked for");
    }
    last_key = row.key;
  }
  return Status();
}

VerifiedRows::VerifiedRows(Range range, bool reverse, Encoding encoding, Ask ask)
    : range_(std::move(range)), reverse_(reverse), encoding_(encoding), ask_(std::move(ask)) {
  CHECK(!range_.snapshot.empty()) << "without a snapshot, rows and sums are of different moments";
}

VerifiedRows::VerifiedRows(Client* client, Range range, bool reverse, Encoding encoding)
    : VerifiedRows(std::move(range), reverse, encoding, [client](const api::AggregateRequest& request) {
        return client->Call(Client::Repeat::kSafe, &api::KvIf::aggregate, request);
      }) {}

void VerifiedRows::Add(const std::vector<RowView>& rows) {
  for (const RowView& row : rows) {
    ++part_.count;
    part_.bytes += row.bytes();
    if (row.key.size() > kMaxKeyBytes) continue;  // no store has such a key, so the hash will not be its hash
    const uint64_t value_hash = Hash64(row.value);
    for (size_t i = 0; i < part_.hashes.size(); ++i) {
      if (space_ && *space_ != i) continue;
      part_.hashes[i] +=
          RecordHash(kSpaces[i].prefix(), row.key, value_hash, static_cast<Version>(row.version), row.expires_at_ms);
    }
  }
  if (!rows.empty()) last_key_ = rows.back().key;
}

Status VerifiedRows::Check(bool over) {
  if (!over && last_key_.empty()) return Status();
  api::AggregateRequest request;
  SetRange(range_, &request);
  std::string next;
  if (!over) {
    next = reverse_ ? last_key_ : KeyAfter(last_key_);
    if (next.empty()) return Status();  // no key can follow, so what is left is compared as the last part
    (reverse_ ? request.start_key : request.end_key) = next;
  }
  Result<api::AggregateReply> reply = ask_(request);
  if (reply.status().code() == Code::kUnsupported) {
    return Error(Code::kUnsupported,
                 "{}; it is older than this kvadmin and cannot verify what it sends: read without that",
                 reply.status().message());
  }
  RETURN_IF_ERROR(reply.status());
  const auto hash = static_cast<uint64_t>(reply->content_hash);
  // Once it is known which one is the store's, the other one is not computed.
  const bool plain = space_.value_or(0) == 0 && hash == part_.hashes[0];
  const bool same_hash = plain || (space_.value_or(1) == 1 && hash == part_.hashes[1]);
  if (static_cast<uint64_t>(reply->count) != part_.count || static_cast<uint64_t>(reply->bytes) != part_.bytes ||
      !same_hash) {
    return Differs(request, *reply);
  }
  if (part_.count > 0) space_ = plain ? 0 : 1;
  verified_.Add({part_.count, part_.bytes, hash});
  part_ = {};
  last_key_.clear();
  if (!over) (reverse_ ? range_.end : range_.start) = std::move(next);
  return Status();
}

Status VerifiedRows::Differs(const api::AggregateRequest& asked, const api::AggregateReply& reply) const {
  const std::string prefix =
      asked.prefix.empty() ? "" : fmt::format(" with the prefix {}", Bound(asked.prefix, encoding_, ""));
  return Error(
      Code::kCorruption,
      "the rows from {} to {}{} are not what the store counts there at the same snapshot: {} records, {} bytes, "
      "content hash {:016x} came, and it counts {} records, {} bytes, content hash {:016x}. Do not use them. "
      "Read the range again, at another node or router; if it differs again, run kvadmin check --online at each "
      "node, and kvadmin verify for a cluster, and report it",
      Bound(asked.start_key, encoding_, "the first key"), Bound(asked.end_key, encoding_, "the last key"), prefix,
      part_.count, part_.bytes, part_.hashes[space_.value_or(1)], reply.count, reply.bytes,
      static_cast<uint64_t>(reply.content_hash));
}

}  // namespace pando::admin
