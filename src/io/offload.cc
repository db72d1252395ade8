#include "src/io/offload.h"

#include <algorithm>

namespace pando {

void OffloadPort::Add(OffloadCall* call) {
  call->port = this;
  call->asked_ns = reactor_->NowNs();
  call->next = nullptr;
  if (in_pool_ < kMaxOffloads) {  // then nobody waits
    ++in_pool_;
    workers_->RunWork(call);
  } else {
    ++waiting_;
    if (last_waiting_ != nullptr) {
      last_waiting_->next = call;
    } else {
      first_waiting_ = call;
    }
    last_waiting_ = call;
  }
  Publish();
}

void OffloadPort::OnWorkDone(OffloadCall* call) {
  metrics_.wait_ns.Record(static_cast<uint64_t>(std::max<Nanos>(call->begun_ns - call->asked_ns, 0)));
  metrics_.work_ns.Record(static_cast<uint64_t>(std::max<Nanos>(call->ended_ns - call->begun_ns, 0)));
  if (first_waiting_ != nullptr) {  // it gets the place (OF1)
    auto* next = static_cast<OffloadCall*>(first_waiting_);
    first_waiting_ = next->next;
    if (first_waiting_ == nullptr) last_waiting_ = nullptr;
    --waiting_;
    workers_->RunWork(next);
  } else {
    CHECK_GT(in_pool_, 0u) << "OF1: a call came back that was not in the pool";
    --in_pool_;
  }
  Publish();
  call->Finish();  // may free the call
}

void OffloadPort::Publish() {
  metrics_.waiting.Set(static_cast<int64_t>(waiting_));
  metrics_.in_pool.Set(static_cast<int64_t>(in_pool_));
}

}  // namespace pando
