// Node::Scrub, which starts the scrubs of all reactors and sums their reports.
#include "src/node/node.h"

namespace pando {

Task<Result<api::ScrubReply>> Node::Scrub(Reactor& caller, bool start, uint64_t bytes_per_s) {
  api::ScrubReply sum;
  const uint64_t rate = bytes_per_s / shards_.size();
  for (size_t i = 0; i < shards_.size(); ++i) {
    auto ask = [shard = shards_[i], start, rate](Reactor&) { return shard->Scrub(start, rate); };
    ScrubReport report = co_await CallOn(caller, static_cast<int>(i), std::move(ask));
    AddReport(report, i == 0, &sum);
  }
  co_return sum;
}

}  // namespace pando
