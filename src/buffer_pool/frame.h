// Frame: the in-memory descriptor of one page-sized piece of the pool's memory. The persisted page (page.h) knows
// nothing of it. Frames name each other by index.
//
// Threads: one reactor.
#pragma once

#include <coroutine>
#include <cstdint>

#include "src/buffer_pool/extent.h"

namespace pando {

class PageOwner;
using FrameId = uint32_t;
inline constexpr FrameId kNoFrame = 0xffffffff;

struct Frame {
  enum class State : uint8_t {
    kFree,
    kLoading,   // a read is in flight
    kResident,  // holds a page, or the first piece of an overflow value
    kPiece,     // holds a further piece of an overflow value; managed through the first
  };
  enum class Queue : uint8_t { kNone, kSmall, kMain };

  FrameId id = kNoFrame;
  State state = State::kFree;
  Queue queue = Queue::kNone;
  uint8_t heat = 0;             // overflow values; pages keep theirs in their header, which is in cache anyway
  bool dirty = false;           // differs from `disk`
  bool writing = false;         // a write of its image is in flight
  bool attached = false;        // its parent in the newest tree refers to it as a frame
  bool frozen_listed = false;   // its owner's frozen table refers to it
  bool doomed = false;          // dropped while pinned or being written: freed when the last hold goes
  bool overflow = false;        // an overflow value, not a page
  bool superseded = false;      // overflow value no record refers to any more: goes once written
  bool in_map = false;          // found by Lookup(owner, disk.location)
  bool discard_extent = false;  // with doomed: its extent is given back when its write is done
  uint8_t level = 0;
  uint32_t pins = 0;
  uint32_t frame_children = 0;    // children its page refers to as frames; such a page cannot be evicted
  FrameId parent = kNoFrame;      // when attached; kNoFrame for a root
  FrameId next_piece = kNoFrame;  // overflow values
  uint32_t value_bytes = 0;       // overflow values
  uint64_t page_id = 0;
  Generation birth = 0;
  uint64_t modifications = 0;  // grows with each change; a write whose page changed meanwhile is void
  PageOwner* owner = nullptr;
  ChildRef disk{};  // as last written; location empty = never

  FrameId queue_prev = kNoFrame, queue_next = kNoFrame;
  FrameId map_next = kNoFrame;
  Frame* dirty_prev = nullptr;  // the owner's dirty list
  Frame* dirty_next = nullptr;
  uint8_t dirty_list = 0xff;
};

}  // namespace pando
