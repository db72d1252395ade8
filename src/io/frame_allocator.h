// Size-class allocator for coroutine frames: a free list per 64-byte class and thread, since a request makes and
// destroys a handful of frames. Under sanitizers it is plain malloc, so that use-after-free is seen.
//
// Threads: a frame is freed on the thread that made it (coroutines never migrate between reactors).
#pragma once

#include <cstddef>

namespace pando {

void* AllocateFrame(size_t bytes);
void FreeFrame(void* frame, size_t bytes) noexcept;

// Bytes of frames alive, plus those cached on free lists, on the calling thread; counted towards the memory limit.
size_t FrameBytesOnThisThread();

}  // namespace pando
