#include "src/io/frame_allocator.h"

#include <array>
#include <new>
#include <utility>

namespace pando {
namespace {

constexpr size_t kClassBytes = 64;
constexpr size_t kClasses = 64;  // frames of up to 4032 bytes are recycled; larger ones are rare

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(PANDO_SANITIZED)
constexpr bool kRecycle = false;
#else
constexpr bool kRecycle = true;
#endif

struct FreeFrameNode {
  FreeFrameNode* next;
};

struct FrameCache {
  std::array<FreeFrameNode*, kClasses> free{};
  size_t bytes = 0;
  ~FrameCache() {
    for (FreeFrameNode* node : free) {
      while (node) ::operator delete(std::exchange(node, node->next));
    }
  }
};
thread_local FrameCache cache;

}  // namespace

void* AllocateFrame(size_t bytes) {
  size_t index = (bytes + kClassBytes - 1) / kClassBytes;
  if (!kRecycle || index >= kClasses) {
    cache.bytes += bytes;
    return ::operator new(bytes);
  }
  if (FreeFrameNode* node = cache.free[index]) {
    cache.free[index] = node->next;
    return node;
  }
  cache.bytes += index * kClassBytes;
  return ::operator new(index* kClassBytes);
}

void FreeFrame(void* frame, size_t bytes) noexcept {
  size_t index = (bytes + kClassBytes - 1) / kClassBytes;
  if (!kRecycle || index >= kClasses) {
    cache.bytes -= bytes;
    ::operator delete(frame);
    return;
  }
  auto* node = static_cast<FreeFrameNode*>(frame);
  node->next = cache.free[index];
  cache.free[index] = node;
}

size_t FrameBytesOnThisThread() { return cache.bytes; }

}  // namespace pando
