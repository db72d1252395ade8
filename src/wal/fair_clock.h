// FairClock: divides a shared resource fairly, by bytes, among streams (self-clocked fair
// queueing).
//
// Every stream has a tag: the virtual time at which its last piece ended. A stream that starts to
// wait joins at the clock's time if its tag is older. Its next piece ends at its tag plus the size
// of the piece. The stream whose piece ends first is served next, and the clock advances to that
// end. Streams that always wait therefore get equal numbers of bytes. A stream that asks for little
// is served before those that ask for much, however many they are and however long they have
// waited.
//
// Threads: plain values.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pando {

class FairClock {
 public:
  // The tag of a stream that starts to wait.
  uint64_t Join(uint64_t tag) const { return std::max(tag, now_); }
  // Serves a piece that ends at `end`, which becomes the tag of its stream.
  void Serve(uint64_t end) { now_ = std::max(now_, end); }

 private:
  uint64_t now_ = 0;
};

}  // namespace pando
