// Frame: the in-memory descriptor of one page-sized piece of the pool's memory. None of it is
// persisted; page.h describes the persisted page. Frames refer to each other by index.
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
    kPiece,     // holds a later piece of an overflow value; managed through the first frame
  };
  enum class Queue : uint8_t { kNone, kSmall, kMain };

  FrameId id = kNoFrame;
  State state = State::kFree;
  Queue queue = Queue::kNone;
  // Recent use, for eviction. Overflow values only: pages keep theirs in the page header, which is
  // in the CPU cache anyway.
  uint8_t heat = 0;
  bool dirty = false;           // differs from `disk`
  bool writing = false;         // a write of its image is in flight
  bool attached = false;        // its parent in the newest tree refers to it by frame
  bool frozen_listed = false;   // the frozen table of its owner refers to it
  bool doomed = false;          // dropped; freed when its last pin or write ends
  bool overflow = false;        // an overflow value, not a page
  bool superseded = false;      // overflow value without a record; dropped once written
  bool in_map = false;          // found by Lookup(owner, disk.location)
  bool discard_extent = false;  // with doomed: its extent is given back when it is freed
  bool roams = false;           // a merge made it: its next image goes wherever there is room
  uint8_t level = 0;
  uint32_t pins = 0;
  uint32_t frame_children = 0;    // children that it refers to by frame; evictable only if 0
  FrameId parent = kNoFrame;      // when attached; kNoFrame for a root
  FrameId next_piece = kNoFrame;  // overflow values
  uint32_t value_bytes = 0;       // overflow values
  uint64_t page_id = 0;
  Generation birth = 0;
  uint64_t modifications = 0;  // grows with each change; a write is void if it grew meanwhile
  PageOwner* owner = nullptr;
  ChildRef disk{};  // as last written; empty location = never written
  // Where the page was last stored, or is about to be. Not its own any more once it changes: only a hint for where its
  // neighbors should go.
  Extent last_place{};

  FrameId queue_prev = kNoFrame, queue_next = kNoFrame;
  FrameId map_next = kNoFrame;
  Frame* dirty_prev = nullptr;  // the owner's dirty list
  Frame* dirty_next = nullptr;
  uint8_t dirty_list = 0xff;
};

}  // namespace pando
