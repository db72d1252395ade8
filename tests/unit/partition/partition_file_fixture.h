// A partition file on a simulated machine, for the tests of PartitionFile.
//
// Threads: the machine's reactor.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page.h"
#include "src/partition/partition_file.h"
#include "tests/support/hand_bytes.h"
#include "tests/support/sim_kernel.h"

namespace pando {

inline constexpr uint64_t kHi = 0x0123456789abcdef, kLo = 0xfedcba9876543210;
inline constexpr Uuid kNode{0x11, 0x22}, kPartition{kHi, kLo};
inline const char* const kPath = "/data";
using FilePtr = std::unique_ptr<PartitionFile>;

inline PartitionFileOptions FileOptions() { return {kPath, kNode, kPartition, 4096}; }

// The checksum of an extent as docs/FORMAT.md, "Partition file", defines it.
inline uint64_t HandExtentChecksum(std::string_view bytes, uint64_t block) {
  return Hash64(bytes, HandSeed(kHi, kLo, block));
}

class PartitionFileTest : public testing::Test {
 public:
  PartitionFileTest() {
    Status status = Get(CreatePartitionFile(*reactor_, FileOptions()));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  template <typename T>
  T Get(Task<T> task) {
    return *kernel_.RunTask(*reactor_, std::move(task));
  }
  FilePtr Open(bool read_only = false, TurnBudget* turn = nullptr) {
    PartitionFileOptions options = FileOptions();
    options.turn = turn;
    Result<FilePtr> file = Get(PartitionFile::Open(*reactor_, std::move(options), read_only));
    EXPECT_TRUE(file.ok()) << file.status().ToString();
    return *std::move(file);
  }
  Status OpenError(PartitionFileOptions options = FileOptions()) {
    Result<FilePtr> file = Get(PartitionFile::Open(*reactor_, std::move(options), true));
    if (!file.ok()) return file.TakeStatus();
    Close(file->get());
    return Status();
  }
  void Close(PartitionFile* file) {
    Status status = Get(file->Close());
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  static Task<void> Released(PartitionFile* file) {
    while (file->releasing_generations()) co_await Sleep(file->file().reactor(), kMillisecond);
  }
  void WaitUntilReleased(PartitionFile* file) { EXPECT_TRUE(kernel_.RunTask(*reactor_, Released(file))); }
  Extent Allocate(PartitionFile* file, uint32_t blocks) { return *Get(file->AllocateForWrite(blocks)); }
  std::string Contents() { return machine_->disk().ReadAll(kPath); }
  void SetContents(const std::string& bytes) { machine_->disk().WriteAll(kPath, bytes); }

  // Runs two checkpoints that leave a dead list and a bitmap behind. Returns generation 3's
  // superblock.
  Superblock TwoCheckpoints() {
    FilePtr file = Open();
    const Extent page = Allocate(file.get(), 2);
    file->AdoptExtent(page, 2);
    file->EndGeneration(2);
    EXPECT_TRUE(Get(file->Commit(Content(2, Extent::Of(4, 1)))).ok());
    file->FreeLater({page, 2});
    file->EndGeneration(3);
    EXPECT_TRUE(Get(file->Commit(Content(3, Extent::Of(4, 1)))).ok());
    const Superblock sb = file->superblock();
    Close(file.get());
    return sb;
  }
  static Superblock Content(Generation generation, Extent root) {
    Superblock sb;
    sb.generation = generation;
    sb.epoch = 1;
    sb.checkpoint_lsn = generation * 10;
    sb.next_page_id = 5;
    sb.root.location = root;
    return sb;
  }

  SimKernel kernel_{1};
  SimMachine* machine_ = kernel_.AddMachine();
  SimReactor* reactor_ = machine_->Boot();
};

}  // namespace pando
