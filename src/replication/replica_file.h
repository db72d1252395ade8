// ReplicaFile: what a replica must never forget, in a small file of its own beside the partition's. It
// changes outside of checkpoints, and before the replica tells anybody (docs/FORMAT.md, "Replica file").
//
// Two slots of a block each are written in turn, durably. So the state before stays readable until the new
// one is complete.
//
// Threads: that of the partition.
//
// Invariants
//   RF1  What Store has said is stored is found by every later Open, or something stored after it. The
//        promise and the lineage of a replica never fall.
//   RF2  A failed write is never retried: nothing more is stored by this process.
//   RF3  Both slots hold what was stored, so damage of one of them loses nothing.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "src/base/ids.h"
#include "src/base/result.h"
#include "src/io/directory.h"
#include "src/io/file.h"
#include "src/io/sync.h"

namespace pando::replication {

struct ReplicaState {
  Uuid replica;            // this copy of the partition
  Epoch promised = 0;      // nothing of a lower epoch is accepted any more
  uint64_t lineage = 0;    // of the partition's data
  bool installed = false;  // its pages are complete; else it is a learner that they are copied to
  bool operator==(const ReplicaState&) const = default;
};

inline constexpr uint64_t kReplicaFileMagic = 0x31304c5045525050;  // "PPREPL01"
inline constexpr uint32_t kReplicaFormat = 1;
inline constexpr uint32_t kReplicaInstalled = 1u << 0;

// A slot as it begins its block; zeros follow. The checksum is at the end of the block.
struct ReplicaSlot {
  uint64_t magic = kReplicaFileMagic;
  uint32_t format = kReplicaFormat;
  uint32_t flags = 0;
  Uuid partition;
  Uuid replica;
  Epoch promised = 0;
  uint64_t lineage = 0;
  uint64_t sequence = 0;  // of the write, from 1; slot `sequence` mod 2 holds it
};
static_assert(sizeof(ReplicaSlot) == 72 && offsetof(ReplicaSlot, promised) == 48);
inline constexpr size_t kReplicaSlotBytes = 4096, kReplicaSlotChecksum = 4088;

// What a file that is made has behind its name until it is complete.
inline constexpr char kNewReplicaSuffix[] = ".new";

// Writes the block of a slot, with its checksum.
void EncodeReplicaSlot(const ReplicaSlot& slot, char* block);
// The newer of the valid slots in both blocks. kCorruption: none is. kVersion: a later version wrote one.
Result<ReplicaSlot> ChooseReplicaSlot(std::string_view blocks, std::string_view path, const Uuid& partition);

class ReplicaFile {
 public:
  // `directory` is that of the store and outlives the file; `name` is relative to it.
  struct Place {
    const Directory* directory = nullptr;
    std::string name;
    Uuid partition;
  };
  // Makes the file, or replaces it: what an earlier replica has promised means nothing to this one. It is
  // complete and durable before it has its name.
  static Task<Result<std::unique_ptr<ReplicaFile>>> Create(Place place, ReplicaState state);
  // kNotFound: there is no such file. kCorruption: both slots are damaged, or it is that of another
  // partition.
  static Task<Result<std::unique_ptr<ReplicaFile>>> Open(Place place);
  ~ReplicaFile();

  // Returns once `state`, or one that was stored after it, is durable. One write at a time: those that come
  // meanwhile are written together, as the last one says.
  Task<Status> Store(ReplicaState state);
  // What is durable.
  const ReplicaState& state() const { return stored_; }
  // Waits for the running write. Call it once, after the last Store.
  Task<Status> Close();

 private:
  ReplicaFile(Reactor& reactor, Place place) : place_(std::move(place)), changed_(reactor) {}
  ReplicaSlot NextSlot(const ReplicaState& state) const;
  Task<Status> WriteNext(ReplicaState state);

  const Place place_;
  File file_;
  AlignedBuffer block_{kReplicaSlotBytes};
  ReplicaState stored_, wanted_;
  uint64_t sequence_ = 0;                           // of the last slot written
  uint64_t wanted_number_ = 0, stored_number_ = 0;  // of calls of Store
  bool writing_ = false;
  Status failure_;
  WaitQueue changed_;
};

}  // namespace pando::replication
