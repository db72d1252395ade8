// LongWork: the memory of a router that requests which take long may have: those for ranges, multiGets and snapshots.
// It is apart from what other requests have, so that they never take all of it, and in two parts:
//
//   ranges    what requests reserve when they are admitted, and keep until they are answered
//   answers   the answers of nodes to them, and the values that multiGets have taken from those
//
// Requests that keep one part while they wait for the other would wait for each other for ever, if it were the same
// memory. Of each client no more is admitted than leaves room for the next one. Who is not admitted is answered at
// once.
//
// Threads: Shared may be used by any; LongWork is of one reactor.
//
// Invariants
//   LW1  No request waits for memory that requests keep which wait for memory. A request gets its part of `ranges`
//        before it asks a node, or is refused. Whoever gets no memory for an answer waits without any answer: a page
//        begins anew, and a multiGet is answered with what it has.
//   LW2  Of `ranges`, no client has more than kClientShare times what is free (a dynamic threshold, as UP3).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include "src/base/memory_budget.h"
#include "src/kvapi/kv_errors.h"
#include "src/metrics/metrics.h"
#include "src/router/snapshot_shares.h"

namespace pando {

class LongWork {
 public:
  static constexpr size_t kClientShare = 2;  // a client alone gets two thirds
  static constexpr int32_t kRetryAfterMs = 100;

  // Of all reactors.
  struct Shared {
    // Of the memory of a process, a quarter each is for `ranges` and `answers`.
    static constexpr int64_t kPart = 4;
    explicit Shared(int64_t memory_bytes) : ranges(memory_bytes / kPart), answers(memory_bytes / kPart) {}
    MemoryBudget ranges, answers;
    SnapshotShares snapshots;
  };

  // What one request has of `ranges`.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept
        : work_(std::exchange(other.work_, nullptr)), client_(other.client_), bytes_(other.bytes_) {}
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket() { Release(); }

   private:
    friend class LongWork;
    void Release();
    LongWork* work_ = nullptr;
    uint64_t client_ = 0;
    int64_t bytes_ = 0;
  };

  // `shared` outlives it, and it outlives its tickets.
  explicit LongWork(Shared* shared) : shared_(*shared), answers_(&shared->answers) {}

  // False: the client has its share, or all is taken. A request alone is admitted however much it wants.
  bool Admit(uint64_t client, size_t bytes, Ticket* ticket);
  // The most that is admitted at the moment.
  size_t MostFor(uint64_t client) const;
  // The error of a request that is not admitted.
  api::KvError Refuse(uint64_t client);

  // Whether other requests have half of the memory that is not divided when a request that takes long has so much more.
  // Its reply is there until its client has read it.
  static bool LeavesRoom(const BudgetAccount& account, size_t bytes) { return bytes <= RoomIn(account); }
  static size_t RoomIn(const BudgetAccount& account) {
    const int64_t most = account.budget()->limit_bytes() / 2, used = account.budget()->used_bytes();
    return static_cast<size_t>(std::max<int64_t>(most - used, 0));
  }
  SnapshotShares& snapshots() { return shared_.snapshots; }
  size_t limit_bytes() const { return static_cast<size_t>(shared_.ranges.limit_bytes()); }
  BudgetAccount& answers() { return answers_; }
  Counter& refused_total() { return refused_total_; }

 private:
  int64_t Of(uint64_t client) const {
    const auto at = held_.find(client);
    return at == held_.end() ? 0 : at->second;
  }

  Shared& shared_;
  BudgetAccount answers_;
  std::unordered_map<uint64_t, int64_t> held_;  // by client; none is 0
  Counter refused_total_;
};

// Reserves memory that the call keeps while nodes are asked, and admits it. False: an error is set in its reply.
// `work` null: there is no limit but that of all memory.
template <typename Call>
bool ReserveLong(LongWork* work, uint64_t client, Call* call, size_t bytes, LongWork::Ticket* ticket) {
  const bool room = work == nullptr || LongWork::LeavesRoom(call->server->account(), bytes);
  if (work != nullptr && (!room || !work->Admit(client, bytes, ticket))) {
    SetError(&call->reply, work->Refuse(client));
    return false;
  }
  if (call->memory.TryGrow(bytes)) return true;
  call->server->metrics().overloaded_total.Add();
  SetError(&call->reply, call->server->OverloadedError(bytes));
  return false;
}

}  // namespace pando
