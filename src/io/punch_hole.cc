#include "src/io/punch_hole.h"

#include <fcntl.h>

#include <cerrno>

namespace pando {

Task<Status> PunchHole(File* file, uint64_t offset, uint64_t bytes) {
  CHECK(offset % kBlockBytes == 0 && bytes % kBlockBytes == 0 && bytes > 0)
      << "a hole must cover whole blocks, but this one has " << bytes << " bytes at offset " << offset;
  int32_t result = -EINTR;
  while (result == -EINTR || result == -EAGAIN) {
    IoAwaiter awaiter{&file->reactor(), {}};
    awaiter.op.kind = IoOp::Kind::kAllocate;
    awaiter.op.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    awaiter.op.file = file->id();
    awaiter.op.offset = offset;
    awaiter.op.allocate_bytes = bytes;
    result = co_await awaiter;
  }
  if (result >= 0) co_return Status();
  Status status = ErrnoError(-result, "punch a hole of {} bytes at offset {} of {}", bytes, offset, file->path());
  if (result == -EOPNOTSUPP || result == -ENOSYS) co_return Error(Code::kUnsupported, "{}", status.message());
  co_return status;
}

}  // namespace pando
