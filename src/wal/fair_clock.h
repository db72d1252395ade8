// FairClock: whose turn it is among streams that share something, by bytes (self-clocked fair queueing).
//
// Every stream has a tag, the virtual time at which the last piece that it was given ends; a stream that begins to wait
// joins at the clock's time. Its next piece would end its own size after its tag. The stream whose piece would end
// first is next, and the clock goes on to that time. So streams that always wait get equal numbers of bytes, and one
// that asks for little is served before those that ask for much, however many they are and however long they have been
// waiting.
//
// Threads: values.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pando {

class FairClock {
 public:
  // The tag of a stream that did not wait and begins to.
  uint64_t Join(uint64_t tag) const { return std::max(tag, now_); }
  // Serves a piece that ends at `end`, which becomes the tag of its stream.
  void Serve(uint64_t end) { now_ = std::max(now_, end); }

 private:
  uint64_t now_ = 0;
};

}  // namespace pando
