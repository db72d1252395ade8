#include "src/router/range_tries.h"

namespace pando {

namespace {

// So many replicas are asked in vain before the master gets all the time that is left.
constexpr int kMostSilences = 2;

}  // namespace

std::vector<MergeSource> RangeParts::Sources() const {
  std::vector<MergeSource> sources;
  for (const auto& node : nodes) {
    sources.push_back({node.get(), node->share().partitions.size(), /*filtered=*/!plan.slice.all()});
  }
  return sources;
}

Status RangeParts::CheckCovered() const {
  std::vector<api::Covered> covered;
  for (const auto& node : nodes) covered.insert(covered.end(), node->covered().begin(), node->covered().end());
  return pando::CheckCovered(plan, covered);
}

Result<RangePlan> RangeTries::Plan(const ScanRange& range) {
  RangeNodes& nodes = ask_.nodes();
  ask_.BeginTry();
  seen_ = nodes.news();
  if (!nodes.map().complete()) {
    const Status none = Error(Code::kUnavailable, "the map of the cluster is not known at the moment");
    ask_.Fail(ToKvError(none, false), RetryCause::kNotNow);
    return none;
  }
  const auto choose = [&](const Route& route) {
    if (only_master_) return route.master;
    if (route.in_sync.size() > 1) ask_.MayAskAnother();
    return nodes.ChooseReplica(route, ask_.silent());
  };
  Result<RangePlan> plan = PlanRange(nodes.map(), range, choose);
  if (!plan.ok()) ask_.Fail(ToKvError(plan.status(), false), RetryCause::kNotNow);
  return plan;
}

Task<bool> RangeTries::WaitForNext() {
  const RetryCause cause = ask_.cause();
  if (cause == RetryCause::kNone) co_return false;
  const bool too_stale = ask_.failure()->code == static_cast<int32_t>(ApiCode::kTooStale);
  if (only_master_ && too_stale && ++too_stale_ >= kMostTooStale) co_return false;
  // A replica that could not answer is not asked again. After one that was silent, another one may answer.
  const bool silent = ask_.silent() != silent_ && ++silences_ < kMostSilences;
  silent_ = ask_.silent();
  only_master_ |= !silent;
  RangeNodes& nodes = ask_.nodes();
  Reactor& reactor = call_.server->reactor();
  const bool busy = cause == RetryCause::kBusy;
  if (!busy) nodes.Refresh();
  const Nanos asked_ns = busy ? ask_.failure()->retry_after_ms * kMillisecond : Nanos{0};
  const Nanos next_ns = reactor.NowNs() + backoff_.Next(cause, asked_ns);
  if (nodes.stopping() || call_.IsUnwanted() || next_ns >= call_.deadline_ns) co_return false;
  if (busy) {
    co_await Sleep(reactor, next_ns - reactor.NowNs());
  } else {
    // What this try has learned of the map is worth another at once, but not for ever.
    co_await nodes.UntilNews(backoff_.tries() <= kQuickTries ? seen_ : nodes.news(), next_ns);
  }
  co_return !call_.IsUnwanted() && !nodes.stopping();
}

api::KvError RangeTries::LastError() const {
  if (ask_.cause() == RetryCause::kNone) return *ask_.failure();
  return GaveUp(*ask_.failure(), backoff_.tries(), call_.budget_ms);
}

void RangeTries::NoteGap(const Status& why) { ask_.FailGarbled(why); }

bool IsForMasters(const api::Context& context) { return ToReadLevel(context) == ReadLevel::kLinearizable; }

}  // namespace pando
