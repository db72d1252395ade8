#include "src/buffer_pool/page.h"

#include <lz4.h>
#include <zstd.h>

#include <cstring>

#include "src/base/hash.h"

namespace pando {
namespace {

constexpr int kZstdLevel = 1;

constexpr Compression kCompressions[] = {Compression::kNone, Compression::kLz4, Compression::kZstd};

// Compresses `in` into `out`, which has room for `capacity` bytes. Returns 0 when it does not fit.
uint32_t Compress(Compression compression, std::string_view in, char* out, uint32_t capacity) {
  if (compression == Compression::kLz4) {
    int n = LZ4_compress_default(in.data(), out, static_cast<int>(in.size()), static_cast<int>(capacity));
    return n > 0 ? static_cast<uint32_t>(n) : 0;
  }
  size_t n = ZSTD_compress(out, capacity, in.data(), in.size(), kZstdLevel);
  return ZSTD_isError(n) ? 0 : static_cast<uint32_t>(n);
}

bool Decompress(Compression compression, std::string_view in, char* out, uint32_t bytes) {
  if (compression == Compression::kLz4) {
    return LZ4_decompress_safe(in.data(), out, static_cast<int>(in.size()), static_cast<int>(bytes)) ==
           static_cast<int>(bytes);
  }
  size_t n = ZSTD_decompress(out, bytes, in.data(), in.size());
  return !ZSTD_isError(n) && n == bytes;
}

}  // namespace

const char* CompressionName(Compression compression) {
  switch (compression) {
    case Compression::kNone: return "none";
    case Compression::kLz4: return "lz4";
    case Compression::kZstd: return "zstd";
  }
  return "unknown";
}

Result<Compression> ParseCompression(std::string_view name) {
  for (Compression c : kCompressions) {
    if (name == CompressionName(c)) return c;
  }
  return Error(Code::kInvalidArgument, "\"{}\" is not none, lz4 or zstd", name);
}

uint64_t ChecksumSeed(const Uuid& partition, uint64_t block) {
  uint64_t words[3] = {partition.hi, partition.lo, block};
  return Hash64({reinterpret_cast<const char*>(words), sizeof(words)});
}

uint32_t EncodePageImage(const char* page, uint32_t usable_bytes, Compression compression, char* image, char* scratch) {
  const PageHeader& header = HeaderOf(page);
  uint32_t front = kPageHeaderBytes + header.slot_count * kSlotBytes;
  uint32_t heap = usable_bytes - header.heap_begin;
  std::memcpy(image, page, front);
  std::memcpy(image + front, page + header.heap_begin, heap);
  uint32_t stored = front + heap;
  const uint32_t seal = SealBytesOf(usable_bytes);
  auto blocks_for = [seal](uint32_t bytes) {
    return static_cast<uint32_t>((bytes + seal + kBlockBytes - 1) / kBlockBytes);
  };
  uint32_t blocks = blocks_for(stored);
  PageHeader& out = HeaderOf(image);
  out.heat = 0;
  out.compression = Compression::kNone;
  if (compression != Compression::kNone && blocks > 1) {
    uint32_t capacity = (blocks - 1) * static_cast<uint32_t>(kBlockBytes) - kPageHeaderBytes - seal;
    std::string_view body(image + kPageHeaderBytes, stored - kPageHeaderBytes);
    if (uint32_t n = Compress(compression, body, scratch, capacity)) {
      std::memcpy(image + kPageHeaderBytes, scratch, n);
      stored = kPageHeaderBytes + n;
      blocks = blocks_for(stored);
      out.compression = compression;
    }
  }
  out.stored_bytes = stored;
  std::memset(image + stored, 0, blocks * kBlockBytes - stored);
  return blocks;
}

Status DecodePageImage(char* page, uint32_t usable_bytes, uint32_t blocks, char* scratch) {
  PageHeader& header = HeaderOf(page);
  if (header.magic != kPageMagic) return Error(Code::kCorruption, "not a page (magic {:08x})", header.magic);
  if (header.format != kPageFormat) {
    return Error(Code::kVersion, "the page has format {}, but this build reads only {}", header.format, kPageFormat);
  }
  uint32_t front = kPageHeaderBytes + header.slot_count * kSlotBytes;
  if (header.heap_begin > usable_bytes || header.heap_begin < front ||
      header.stored_bytes + SealBytesOf(usable_bytes) > blocks * kBlockBytes ||
      header.stored_bytes < kPageHeaderBytes || header.stored_bytes > usable_bytes) {
    return Error(Code::kCorruption, "the page header is out of range ({} slots, heap at {}, {} stored bytes)",
                 header.slot_count, header.heap_begin, header.stored_bytes);
  }
  uint32_t heap = usable_bytes - header.heap_begin;
  uint32_t body = front + heap - kPageHeaderBytes;
  if (header.compression == Compression::kNone) {
    if (header.stored_bytes != kPageHeaderBytes + body) {
      return Error(Code::kCorruption, "the page needs {} stored bytes, but its header says {}", kPageHeaderBytes + body,
                   header.stored_bytes);
    }
  } else {
    if (header.compression != Compression::kLz4 && header.compression != Compression::kZstd) {
      return Error(Code::kVersion, "this build does not know page compression {}",
                   static_cast<int>(header.compression));
    }
    std::string_view in(page + kPageHeaderBytes, header.stored_bytes - kPageHeaderBytes);
    if (!Decompress(header.compression, in, scratch, body)) {
      return Error(Code::kCorruption, "the page does not decompress to {} bytes", body);
    }
    std::memcpy(page + kPageHeaderBytes, scratch, body);
  }
  std::memmove(page + header.heap_begin, page + front, heap);
  header.compression = Compression::kNone;
  header.stored_bytes = 0;
  header.heat = 0;
  return Status();
}

}  // namespace pando
