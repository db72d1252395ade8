// What a router does about an answer that is not the last word: whether a request may be sent again, after how long,
// and with what the client is answered when its budget ends.
//
// Threads: plain values, of one reactor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gen-cpp/pando_types.h"
#include "src/base/result.h"
#include "src/io/reactor.h"

namespace pando {

enum class RetryCause : uint8_t {
  kNone,       // the answer is final
  kMisrouted,  // another node is master: look at the map again
  kDown,       // no connection to the node, and nothing was sent
  kBusy,       // the node asks for time
  kNotNow,     // the partition has no master that can answer
  kBroken,     // the connection ended before the answer came
};

// Why a KvError from a node may be retried without harm.
RetryCause CauseOf(const api::KvError& error);

// The pauses before the tries of one request. They grow for each cause by itself, and are spread at random.
class Backoff {
 public:
  explicit Backoff(Reactor& reactor) : reactor_(reactor) {}
  // `asked_ns`: what the node asks for.
  Nanos Next(RetryCause cause, Nanos asked_ns = 0);
  int tries() const { return tries_; }

 private:
  Reactor& reactor_;
  int tries_ = 0, tries_by_cause_[6] = {};
};

// So often what a try has learned of the map is worth another one at once. Then pauses are kept: nodes may contradict
// each other.
inline constexpr int kQuickTries = 3;

// A master that is so often behind what a reader has seen has lost it, or the reader has not seen it.
inline constexpr int kMostTooStale = 3;

// The error of a request whose budget has ended while it was tried. `last`: of the last try.
api::KvError GaveUp(const api::KvError& last, int tries, int32_t budget_ms);

}  // namespace pando
