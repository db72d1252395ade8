// Size-class allocator for coroutine frames. Each thread has one free list per 64-byte size class,
// because every request creates and destroys several frames. Under sanitizers it always uses the
// global allocator, so that they detect use after free.
//
// Threads: a frame is freed on the thread that allocated it, because coroutines never migrate
// between reactors.
#pragma once

#include <cstddef>

namespace pando {

void* AllocateFrame(size_t bytes);
void FreeFrame(void* frame, size_t bytes) noexcept;

// Returns the bytes of live frames plus those cached on the free lists of the calling thread. They
// count toward the memory limit.
size_t FrameBytesOnThisThread();

}  // namespace pando
