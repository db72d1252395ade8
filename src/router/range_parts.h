// RangeAsk: one request for a range, and what has come of the parts of it that nodes answer. NodePart: the part of one
// node, as a source for MergeScan.
//
// Nothing that a node says is taken on trust: an answer must be for the partitions that the node was asked for, and
// its keys must be in their ranges of hashes, in the range, and in order. What is not so is treated as an answer that
// did not come.
//
// Threads: one reactor.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "src/kvapi/kv_requests.h"
#include "src/kvapi/merge_scan.h"
#include "src/kvapi/session_token.h"
#include "src/model/partition.h"
#include "src/router/range_nodes.h"
#include "src/router/range_plan.h"
#include "src/router/retry.h"

namespace pando {

class RangeAsk {
 public:
  // `nodes` and `context` outlive it. `snapshot`, `since`: as in the request.
  RangeAsk(RangeNodes* nodes, const api::Context* context, CallTerms terms, std::string snapshot = {},
           std::string since = {});

  RangeNodes& nodes() { return nodes_; }
  const std::string& snapshot() const { return snapshot_; }
  const std::string& since() const { return since_; }
  const CallTerms& terms() const { return terms_; }
  // Of a scan: as in the request.
  void SetSlice(int32_t slices, int32_t slice) { slices_ = slices, slice_ = slice; }
  void FillSlice(api::ScanRequest* scan) const { scan->slices = slices_, scan->slice = slice_; }
  api::Context ContextOfPart() const { return context_; }

  // What a node has answered. OK: it is an answer, and for this share.
  template <typename Reply>
  Status Take(const NodeShare& share, const NodeAnswer& answer, Reply* reply) {
    if (!answer.answered()) {
      if (answer.silent) silent_ = share.node;
      api::KvError error = ToKvError(answer.status, false);
      error.message = Describe(share) + error.message;
      Fail(error, CauseOfLoss(answer));
    } else if (reply->__isset.error) {
      if (reply->error.code == static_cast<int32_t>(ApiCode::kDeadline)) {
        reply->error.message = Describe(share) + reply->error.message;
      }
      Fail(reply->error, CauseOf(reply->error));
    } else if (Status covered = CheckCovered(share, reply->success.covered); !covered.ok()) {
      FailGarbled(covered);
    } else {
      NoteSession(reply->success.context.session);
      hlc_ = std::max(hlc_, reply->success.context.hlc);
      return Status();
    }
    return PartFailed();
  }
  // The request cannot be answered from the parts as they are.
  void Fail(const api::KvError& error, RetryCause cause);
  void FailGarbled(const Status& why);
  // What a part returns whose failure is known.
  static Status PartFailed() { return Error(Code::kAborted, "a part of the answer has failed"); }

  // Of the try that runs.
  void BeginTry() {
    failure_.reset();
    cause_ = RetryCause::kNone;
    terms_.may_ask_another = false;
  }
  void MayAskAnother() { terms_.may_ask_another = true; }
  // The last node that has left a part without an answer while there was time to ask another; 0: none.
  NodeId silent() const { return silent_; }
  const std::optional<api::KvError>& failure() const { return failure_; }
  RetryCause cause() const { return cause_; }

  // What all parts have told the session, and the request's; and which map the router has.
  template <typename Reply>
  void FillSession(Reply* reply) const {
    reply->context.map_version = nodes_.map().version();
    reply->context.__isset.map_version = reply->__isset.context = true;
    if (hlc_ != 0) {
      reply->context.hlc = hlc_;
      reply->context.__isset.hlc = reply->__isset.context = true;
    }
    std::string token = EncodeSessionToken(session_);
    if (token.empty()) return;
    reply->context.session = std::move(token);
    reply->context.__isset.session = reply->__isset.context = true;
  }

 private:
  static RetryCause CauseOfLoss(const NodeAnswer& answer);
  // "partitions 1, 2 and 5 more: "
  static std::string Describe(const NodeShare& share);
  void NoteSession(const std::string& token);

  RangeNodes& nodes_;
  const api::Context& context_;
  CallTerms terms_;
  NodeId silent_ = 0;
  const std::string snapshot_, since_;
  int32_t slices_ = 0, slice_ = 0;
  SessionToken session_;
  int64_t hlc_ = 0;
  std::optional<api::KvError> failure_;  // the first
  RetryCause cause_ = RetryCause::kNone;
};

// A page of rows as they lie in the answer of a node.
struct EncodedPage {
  std::string frame;
  size_t rows_begin = 0, rows_bytes = 0;
  uint32_t row_count = 0;
  std::optional<std::string> read_to;  // as ScanPage::read_to
  MemoryGrant memory{};                // what the frame takes
  std::string_view rows() const { return std::string_view(frame).substr(rows_begin, rows_bytes); }
};

class NodePart final : public RangeReads {
 public:
  // `ask` outlives it.
  NodePart(RangeAsk* ask, NodeShare share) : ask_(*ask), share_(std::move(share)) {}

  // Errors are kAborted: RangeAsk has the node's. `snapshot` is that of the RangeAsk.
  Task<Result<ScanPage>> Scan(ScanSpec spec) override;
  // The same page, cut to the limits of `spec`, as MergeScan would return it if this were its only source.
  Task<Result<EncodedPage>> ScanEncoded(ScanSpec spec);
  Task<Result<RangeAggregates>> Aggregate(std::string start, std::string end, ReadPoint at) override;
  Task<Result<RangeSample>> Sample(ScanRange range, size_t keys_per_partition);

  const NodeShare& share() const { return share_; }
  // Empty before the first answer.
  const std::vector<api::Covered>& covered() const { return covered_; }

 private:
  Status NoteCovered(std::vector<api::Covered> covered);
  // Asks the node. OK: the answer is for this share, and its rows are those that it may have.
  Task<Result<NodeAnswer>> Ask(ScanSpec spec, ScanAnswer* reply);
  Status CheckRows(const ScanSpec& spec, const ScanAnswer& answer) const;
  // The same for up to where it was read. `last`: the last row; null: there is none.
  Status CheckEnd(const ScanSpec& spec, const ScanAnswer& answer, const RowView* last) const;
  bool Holds(uint64_t hash) const;

  RangeAsk& ask_;
  const NodeShare share_;
  std::vector<api::Covered> covered_;
  MemoryGrant sample_memory_;  // of the sample that it has returned
};

}  // namespace pando
