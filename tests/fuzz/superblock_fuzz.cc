// Fuzzes everything that is read when a store is opened: store.meta, superblocks, and what those
// refer to (group directory, bitmaps, dead list). Errors name the file, nothing is read out of
// bounds, and no CHECK fails.
//
// Input: one byte of flags, then changes to an intact store with two checkpoints: {file offset u16,
// length u8, bytes}... Flag 1: the changes apply to store.meta, otherwise to the partition's file.
// Flag 2: checksums are recomputed afterwards, so that the code behind them is reached. Flag 4: the
// file is truncated after the last change.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/codec.h"
#include "src/base/hash.h"
#include "src/buffer_pool/page.h"
#include "src/partition/partition_file.h"
#include "src/partition/store.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

const char* const kMeta = "/data/store.meta";
const char* const kData = "/data/partition-00000/data";
constexpr size_t kReachable = 64 * 1024;  // everything that is in use; the file is longer

struct Store {
  StoreInfo info;
  std::string meta, data;
};

Task<Result<StoreInfo>> Make(Reactor* reactor) {
  StoreOptions options{"/data", 1, 1, 4096};
  CO_ASSIGN_OR_RETURN(StoreInfo info, co_await OpenStore(*reactor, options));
  PartitionFileOptions file_options{kData, info.node, info.partitions[0].uuid, info.page_bytes, info.seal_bytes};
  CO_ASSIGN_OR_RETURN(std::unique_ptr<PartitionFile> file,
                      co_await PartitionFile::Open(*reactor, file_options, /*read_only=*/false));
  for (Generation generation : {2, 3}) {
    CO_ASSIGN_OR_RETURN(Extent page, co_await file->AllocateForWrite(2));
    file->AdoptExtent(page, generation);
    file->EndGeneration(generation);
    file->FreeLater({page, generation});
    Superblock content;
    content.generation = generation;
    content.root = file->superblock().root;
    CO_RETURN_IF_ERROR(co_await file->Commit(content));
  }
  CO_RETURN_IF_ERROR(co_await file->Close());
  co_return info;
}

// Created once; every input starts from it.
const Store& GoodStore() {
  static const Store store = [] {
    SimKernel kernel(1);
    SimMachine* machine = kernel.AddMachine();
    SimReactor* reactor = machine->Boot();
    Result<StoreInfo> info = *kernel.RunTask(*reactor, Make(reactor));
    CHECK(info.ok()) << info.status().ToString();
    return Store{*info, machine->disk().ReadAll(kMeta), machine->disk().ReadAll(kData)};
  }();
  return store;
}

void SealBlock(std::string* bytes, size_t at) {
  if (at + kBlockBytes > bytes->size()) return;
  StoreLE(&(*bytes)[at + kBlockBytes - 8], Hash64(std::string_view(*bytes).substr(at, kBlockBytes - 8)));
}

// Recomputes the checksums of a chain, from its last piece to the superblock. With a superblock of
// format 1 it is a single extent.
void SealChain(std::string* bytes, size_t superblock, size_t ref) {
  constexpr size_t kMostPieces = 8;  // the limit for a chain that is a cycle
  const Uuid partition = LoadLE<Uuid>(&(*bytes)[superblock + 40]);
  const bool chained = LoadLE<uint32_t>(&(*bytes)[superblock + 8]) != 1;
  std::vector<size_t> refs;  // offsets of the references to the pieces; a checksum follows each
  for (size_t at_ref = superblock + ref; refs.size() < kMostPieces;) {
    const Extent at = LoadLE<Extent>(&(*bytes)[at_ref]);
    if (at.blocks() == 0 || at.offset_bytes() > bytes->size() || at.size_bytes() > bytes->size() - at.offset_bytes()) {
      break;
    }
    refs.push_back(at_ref);
    if (!chained) break;
    at_ref = at.offset_bytes();
  }
  for (size_t i = refs.size(); i > 0; --i) {
    const Extent at = LoadLE<Extent>(&(*bytes)[refs[i - 1]]);
    StoreLE(&(*bytes)[refs[i - 1] + 8], Hash64(std::string_view(*bytes).substr(at.offset_bytes(), at.size_bytes()),
                                               ChecksumSeed(partition, at.block())));
  }
}

void Seal(std::string* bytes, bool meta) {
  if (meta) return SealBlock(bytes, 0);
  for (size_t copy = 0; copy < 4; ++copy) {
    if ((copy + 1) * kBlockBytes > bytes->size()) return;
    SealChain(bytes, copy * kBlockBytes, 168);
    SealChain(bytes, copy * kBlockBytes, 192);
    SealBlock(bytes, copy * kBlockBytes);
  }
}

std::string Changed(std::string bytes, ByteReader* input, uint8_t flags) {
  size_t last = 0;
  while (input->ok() && input->remaining() > 0) {
    const size_t at = input->Fixed<uint16_t>() % kReachable;
    const std::string_view change = input->Bytes(input->Fixed<uint8_t>() % 64);
    if (!input->ok() || at + change.size() > bytes.size()) continue;
    bytes.replace(at, change.size(), change);
    last = at + change.size();
  }
  if (flags & 4) bytes.resize(last);
  return bytes;
}

Task<void> OpenAll(Reactor* reactor) {
  Result<StoreInfo> info = co_await LoadStore(*reactor, "/data");
  if (!info.ok()) {
    CHECK(info.code() == Code::kCorruption || info.code() == Code::kVersion) << info.status().ToString();
    CHECK(info.status().message().find(kMeta) != std::string::npos) << info.status().ToString();
    co_return;
  }
  CHECK_LT(info->PartitionOf("key"), info->ranges);
  for (const PartitionInfo& p : info->partitions) {  // not all ranges need to have one
    CHECK(p.id != info->PartitionOf("key") || p.first_hash <= HashId("key"));
    CHECK_LT(p.id, info->ranges);
    CHECK_LT(info->ReactorOf(p.id), info->reactors);
  }
  PartitionFileOptions options{kData, GoodStore().info.node, GoodStore().info.partitions[0].uuid, 4096,
                               GoodStore().info.seal_bytes};
  Result<std::unique_ptr<PartitionFile>> file = co_await PartitionFile::Open(*reactor, options, /*read_only=*/true);
  if (!file.ok()) {
    CHECK(file.code() == Code::kCorruption || file.code() == Code::kVersion) << file.status().ToString();
    CHECK(file.status().message().find(kData) != std::string::npos) << file.status().ToString();
    co_return;
  }
  const ExtentAllocator& allocator = (*file)->allocator();
  CHECK_LE(allocator.free_blocks(), allocator.total_blocks());
  for (const DeadExtent& dead : (*file)->dead_of_newest()) {
    CHECK_LE(dead.extent.block() + dead.extent.blocks(), allocator.total_blocks());
  }
  CHECK((co_await (*file)->Close()).ok());
}

}  // namespace
}  // namespace pando

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  FLAGS_minloglevel = 2;  // damaged superblock copies cause warnings
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pando;  // NOLINT(google-build-using-namespace): libFuzzer defines the entry point
  ByteReader input({reinterpret_cast<const char*>(data), size});
  const uint8_t flags = input.Fixed<uint8_t>();
  const bool meta = (flags & 1) != 0;
  std::string bytes = Changed(meta ? GoodStore().meta : GoodStore().data, &input, flags);
  if (flags & 2) Seal(&bytes, meta);
  // ChooseSuperblock by itself, on exactly its bytes, so that the sanitizer detects an access past
  // the end.
  if (!meta && bytes.size() >= kSuperblockBlocks * kBlockBytes) {
    const std::string head = bytes.substr(0, kSuperblockBlocks * kBlockBytes);
    Lsn older = 0;
    Result<Superblock> chosen = ChooseSuperblock(head, kData, &older);
    CHECK(chosen.ok() || chosen.code() == Code::kCorruption || chosen.code() == Code::kVersion);
  }
  SimKernel kernel(1);
  SimMachine* machine = kernel.AddMachine();
  machine->disk().WriteAll(kMeta, meta ? bytes : GoodStore().meta);
  machine->disk().WriteAll(kData, meta ? GoodStore().data : bytes);
  SimReactor* reactor = machine->Boot();
  CHECK(kernel.RunTask(*reactor, OpenAll(reactor)).has_value());
  return 0;
}
