// PageStore: the file that stores the pages and values of one tree, and the space in it. A
// partition's file implements it. Trees and the buffer pool know their storage only through it.
//
// The life of an extent
//   AllocateForWrite   it is in use, but no page refers to it
//   AdoptExtent        a page or a record refers to it, because its write has ended or because the
//                      value that goes there exists in memory
//   FreeNow            nothing refers to it, so it may be reused at once; or
//   FreeLater          a root that is durable, or about to be, still refers to it
//
// Threads: one reactor.
#pragma once

#include <span>

#include "src/base/result.h"
#include "src/buffer_pool/extent.h"
#include "src/io/file.h"
#include "src/io/task.h"

namespace pando {

// An extent that nothing in the newest tree refers to any more.
struct DeadExtent {
  Extent extent;
  Generation birth = 0;  // generation in which it was written
};
static_assert(sizeof(DeadExtent) == 16);

class PageStore {
 public:
  virtual File& file() = 0;
  virtual const Uuid& uuid() const = 0;
  // Allocates an extent, growing the file if necessary. Nothing refers to it until AdoptExtent;
  // FreeNow gives it back. kDiskFull.
  virtual Task<Result<Extent>> AllocateForWrite(uint32_t blocks) = 0;
  // The same for a page that was stored at `last` before (empty: nowhere), and whose neighbors in key order are, or
  // were, stored at `near`, the closest one first: prefers a place beside them, so that scans can read them together.
  // `near` must stay alive until the call ends.
  virtual Task<Result<Extent>> AllocateNear(uint32_t blocks, Extent last, std::span<const Extent> near) {
    (void)last, (void)near;
    return AllocateForWrite(blocks);
  }
  // Whether a page at `place` would come to lie with more of its neighbors if it were written anew.
  virtual bool HasBetterPlace(Extent place, std::span<const Extent> near) const {
    (void)place, (void)near;
    return false;
  }
  // From now on, a page or record of generation `birth` refers to the extent.
  virtual void AdoptExtent(Extent extent, Generation birth) = 0;
  // An extent of the current generation that nothing refers to any more, but that may still be the
  // target of a read or write in flight. FreeNow follows.
  virtual void OrphanExtent(Extent extent) = 0;
  // Frees an extent for reuse at once. No durable root refers to it, nor does one that is about to
  // become durable: it is of the current generation, or was never adopted.
  virtual void FreeNow(Extent extent) = 0;
  // Frees an extent that died in the current generation but that an older root may still refer to.
  virtual void FreeLater(DeadExtent dead) = 0;
  // A write failed for good. (Failed reads and damage are reported to the caller of the read.)
  virtual void OnIoError(const Status& status) = 0;
  // Why nothing is written to the file any more, or OK. Once not OK, it stays so.
  virtual const Status& condemned() const {
    static const Status ok;
    return ok;
  }

 protected:
  ~PageStore() = default;
};

}  // namespace pando
