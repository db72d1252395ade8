// Node::Scrub, which starts the scrubs of all reactors and sums their reports.
#include "src/node/node.h"

namespace pando {

Task<Result<api::ScrubReply>> Node::Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) {
  api::ScrubReply sum;
  const uint64_t rate = bytes_per_s / parts_.size();
  for (size_t i = 0; i < parts_.size(); ++i) {
    auto ask = [part = parts_[i], start, rate](Reactor&) { return part->Scrub(start, rate); };
    DamageReport report = co_await CallOn(caller, static_cast<int>(i), std::move(ask));
    AddReport(report, i == 0, &sum);
  }
  co_return sum;
}

}  // namespace pando
