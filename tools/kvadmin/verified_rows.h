// VerifiedRows: whether the rows that scans have returned are those that the store counts. The store keeps the number,
// the bytes and the content hash of every subtree, and gives their sum for any range at once (`aggregate`). A row that
// a scan leaves out, repeats or alters, on its way through nodes and routers, changes these sums.
//
// The rows come in the order of one scan of one snapshot. Check compares a part: the rows since the last Check. So what
// is wrong is known soon, and a part is small enough to be looked at. The sums of the parts add up to those of the
// range.
//
// A hash covers the stored key, which begins with a namespace unless the store is from before there were namespaces.
// Rows do not say which it is, so both hashes are computed, and one of them must be equal. After the first part with
// rows it is known which, and only that one is computed.
//
// Threads: one.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"
#include "src/kvapi/row_walk.h"
#include "src/model/types.h"
#include "tools/kvadmin/bytes.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/range.h"

namespace pando::admin {

// The smallest key after `key` that a request may name; empty if there is none.
std::string KeyAfter(const std::string& key);

// Whether the next rows of a scan in key order are in the range, and above all before, of which the last one is
// `last_key`. kCorruption says what is wrong with which key. VerifiedRows adds rows up, in whatever order they come.
Status CheckOrder(const std::vector<RowView>& rows, const Range& range, std::string_view last_key, Encoding encoding);

class VerifiedRows {
 public:
  // So many bytes of keys and values are compared at once, unless the caller wants it earlier.
  static constexpr uint64_t kPartBytes = 16u << 20;

  using Ask = std::function<Result<api::AggregateReply>(const api::AggregateRequest&)>;

  // `range` names a snapshot, and no cursor. `encoding`: of keys in messages.
  VerifiedRows(Range range, bool reverse, Encoding encoding, Ask ask);
  // Asks a server. `client` must outlive the object.
  VerifiedRows(Client* client, Range range, bool reverse, Encoding encoding);

  // The next rows of the scan, with their values.
  void Add(const std::vector<RowView>& rows);
  // Whether kPartBytes have come since the last Check.
  bool due() const { return part_.bytes >= kPartBytes; }
  // Compares the rows since the last Check. kCorruption says what differs. `over`: there are no more rows in the range.
  // REQUIRES: the last rows that were added are the last that the scan has returned.
  Status Check(bool over);

  // Of all rows that were compared. The hash is that of the store.
  const RangeAggregates& verified() const { return verified_; }

 private:
  struct Part {
    uint64_t count = 0, bytes = 0;
    std::array<uint64_t, 2> hashes = {};  // of keys as they are, and with the namespace of requests
  };
  Status Differs(const api::AggregateRequest& asked, const api::AggregateReply& reply) const;

  Range range_;  // what has not been compared yet; with `reverse_`, its end moves instead of its start
  const bool reverse_;
  const Encoding encoding_;
  const Ask ask_;
  Part part_;
  std::optional<size_t> space_;  // which of the hashes is the store's, once it is known; the other one is 0
  std::string last_key_;         // of part_; empty: it has no rows
  RangeAggregates verified_;
};

}  // namespace pando::admin
