#include "src/router/long_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace pando {

LongWork::Ticket& LongWork::Ticket::operator=(Ticket&& other) noexcept {
  if (this == &other) return *this;
  Release();
  work_ = std::exchange(other.work_, nullptr);
  client_ = other.client_;
  bytes_ = other.bytes_;
  return *this;
}

void LongWork::Ticket::Release() {
  if (work_ == nullptr) return;
  work_->shared_.ranges.Release(bytes_);
  const auto held = work_->held_.find(client_);
  if ((held->second -= bytes_) == 0) work_->held_.erase(held);
  work_ = nullptr;
}

size_t LongWork::MostFor(uint64_t client) const {
  const int64_t used = shared_.ranges.used_bytes();
  if (used == 0) return std::numeric_limits<size_t>::max();
  const int64_t free = std::max<int64_t>(shared_.ranges.limit_bytes() - used, 0);
  // What is left must be worth a part of it: mine + more <= share * (free - more).
  constexpr auto kShare = static_cast<int64_t>(kClientShare);
  return static_cast<size_t>(std::max<int64_t>(kShare * free - Of(client), 0) / (kShare + 1));
}

bool LongWork::Admit(uint64_t client, size_t bytes, Ticket* ticket) {
  if (bytes == 0) return true;
  const auto more = static_cast<int64_t>(bytes);
  if (bytes > MostFor(client)) return false;
  shared_.ranges.Force(more);
  held_[client] += more;
  *ticket = Ticket();
  ticket->work_ = this;
  ticket->client_ = client;
  ticket->bytes_ = more;
  return true;
}

api::KvError LongWork::Refuse(uint64_t client) {
  refused_total_.Add();
  return MakeBusy(fmt::format("requests that take long have {} of the {} bytes that this router has for them, and this "
                              "client has {} of those; retry later",
                              shared_.ranges.used_bytes(), shared_.ranges.limit_bytes(), Of(client)),
                  kRetryAfterMs);
}

}  // namespace pando
