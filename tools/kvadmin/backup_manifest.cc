#include "tools/kvadmin/backup_manifest.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "src/base/hash.h"

namespace pando::admin {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// An older kvadmin, which knows no namespaces, refuses the format of a backup that has them.
constexpr int kPlainFormat = 1, kNamespacedFormat = 2;
constexpr size_t kMaxChain = 1000;

// 64-bit numbers are stored as text, because many JSON readers keep only 53 bits of a number.
std::string Number(uint64_t n) { return std::to_string(n); }

uint64_t NumberOf(const Json& j, const char* name) {
  const auto text = j.at(name).get<std::string>();
  uint64_t n = 0;
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || stop != text.data() + text.size()) {
    throw std::out_of_range(fmt::format("{} is \"{}\", not a number", name, text));
  }
  return n;
}

Json RefJson(const ChildRef& ref) {
  return Json{{"location", Number(ref.location.packed)},
              {"birth", Number(ref.birth)},
              {"checksum", Number(ref.checksum)},
              {"count", Number(ref.count)},
              {"bytes", Number(ref.bytes)},
              {"content_hash", Number(ref.content_hash)},
              {"earliest_expiry_ms", Number(static_cast<uint64_t>(ref.earliest_expiry_ms))}};
}

ChildRef RefOf(const Json& j) {
  ChildRef ref;
  ref.location.packed = NumberOf(j, "location");
  ref.birth = NumberOf(j, "birth");
  ref.checksum = NumberOf(j, "checksum");
  ref.count = NumberOf(j, "count");
  ref.bytes = NumberOf(j, "bytes");
  ref.content_hash = NumberOf(j, "content_hash");
  ref.earliest_expiry_ms = static_cast<int64_t>(NumberOf(j, "earliest_expiry_ms"));
  return ref;
}

Json PartitionJson(const BackupPartition& p) {
  return Json{{"id", p.id},
              {"uuid", p.uuid.ToString()},
              {"file", p.file},
              {"since", Number(p.since)},
              {"generation", Number(p.root.generation)},
              {"epoch", Number(p.root.epoch)},
              {"lsn", Number(p.root.lsn)},
              {"last_version", Number(p.root.last_version)},
              {"next_page_id", Number(p.root.next_page_id)},
              {"file_blocks", Number(p.root.file_blocks)},
              {"root_level", p.root.root_level},
              {"root", RefJson(p.root.root)},
              {"pages", Number(p.pages)},
              {"bytes", Number(p.bytes)}};
}

BackupPartition PartitionOf(const Json& j) {
  BackupPartition p;
  p.id = j.at("id").get<uint32_t>();
  Result<Uuid> uuid = ParseUuid(j.at("uuid").get<std::string>());
  if (!uuid.ok()) throw std::out_of_range(uuid.status().message());
  p.uuid = *uuid;
  p.file = j.at("file").get<std::string>();
  p.since = NumberOf(j, "since");
  p.root.generation = NumberOf(j, "generation");
  p.root.epoch = NumberOf(j, "epoch");
  p.root.lsn = NumberOf(j, "lsn");
  p.root.last_version = NumberOf(j, "last_version");
  p.root.next_page_id = NumberOf(j, "next_page_id");
  p.root.file_blocks = NumberOf(j, "file_blocks");
  p.root.root_level = j.at("root_level").get<uint8_t>();
  p.root.root = RefOf(j.at("root"));
  p.pages = NumberOf(j, "pages");
  p.bytes = NumberOf(j, "bytes");
  return p;
}

BackupManifest ManifestOf(const Json& j) {
  BackupManifest m;
  m.id = j.at("id").get<std::string>();
  m.base = j.at("base").get<std::string>();
  m.base_id = j.at("base_id").get<std::string>();
  m.node = j.at("node").get<std::string>();
  m.server_version = j.at("server_version").get<std::string>();
  m.page_bytes = j.at("page_bytes").get<uint32_t>();
  m.seal_bytes = j.value("seal_bytes", 0u);  // missing in backups of earlier versions, as is the next
  m.namespaced = j.value("namespaced", false);
  m.reactors = j.at("reactors").get<uint32_t>();
  m.snapshot_version = static_cast<int64_t>(NumberOf(j, "snapshot_version"));
  m.taken_at_ms = j.at("taken_at_ms").get<int64_t>();
  for (const Json& p : j.at("partitions")) m.partitions.push_back(PartitionOf(p));
  for (size_t i = 0; i < m.partitions.size(); ++i) {
    if (m.partitions[i].id != i) throw std::out_of_range("the list of partitions has gaps");
  }
  return m;
}

}  // namespace

uint64_t BackupManifest::records() const {
  uint64_t records = 0;
  for (const BackupPartition& p : partitions) records += p.root.root.count;
  return records;
}

Result<Uuid> ParseUuid(const std::string& text) {
  std::string hex;
  for (char c : text) {
    if (c != '-') hex += c;
  }
  Uuid uuid;
  const char* at = hex.data();
  auto hi = std::from_chars(at, at + std::min<size_t>(hex.size(), 16), uuid.hi, 16);
  auto lo = hex.size() == 32 ? std::from_chars(at + 16, at + 32, uuid.lo, 16) : hi;
  if (hex.size() != 32 || hi.ptr != at + 16 || lo.ptr != at + 32) {
    return Error(Code::kInvalidArgument, "\"{}\" is not a UUID", text);
  }
  return uuid;
}

std::string EncodeManifest(const BackupManifest& m) {
  Json j{{"format", m.namespaced ? kNamespacedFormat : kPlainFormat},
         {"id", m.id},
         {"base", m.base},
         {"base_id", m.base_id},
         {"node", m.node},
         {"server_version", m.server_version},
         {"page_bytes", m.page_bytes},
         {"seal_bytes", m.seal_bytes},
         {"namespaced", m.namespaced},
         {"reactors", m.reactors},
         {"snapshot_version", Number(static_cast<uint64_t>(m.snapshot_version))},
         {"taken_at_ms", m.taken_at_ms},
         {"partitions", Json::array()}};
  for (const BackupPartition& p : m.partitions) j["partitions"].push_back(PartitionJson(p));
  const std::string body = j.dump(1);
  return body + fmt::format("\n{:016x}\n", Hash64(body));
}

Result<BackupManifest> DecodeManifest(const std::string& text, const std::string& path) {
  const size_t line = text.size() < 18 ? std::string::npos : text.size() - 18;
  if (line == std::string::npos || text.substr(line) != fmt::format("\n{:016x}\n", Hash64(text.substr(0, line)))) {
    return Error(Code::kCorruption, "{}: the file does not match the checksum in its last line; use another backup",
                 path);
  }
  try {
    const Json j = Json::parse(text.substr(0, line));
    if (const int format = j.at("format").get<int>(); format != kPlainFormat && format != kNamespacedFormat) {
      return Error(
          Code::kVersion,
          "{}: the backup has format {}, but this kvadmin reads formats up to {}; use the kvadmin that wrote it", path,
          format, kNamespacedFormat);
    }
    return ManifestOf(j);
  } catch (const std::exception& e) {
    return Error(Code::kCorruption, "{}: {}; use another backup", path, e.what());
  }
}

std::vector<std::string> BackupChain::Files(uint32_t partition) const {
  std::vector<std::string> files;
  files.reserve(manifests.size());
  for (size_t i = 0; i < manifests.size(); ++i) {
    files.push_back(directories[i] + "/" + manifests[i].partitions[partition].file);
  }
  return files;
}

Result<BackupChain> LoadBackupChain(const std::string& directory) {
  BackupChain chain;
  std::string at = directory;
  for (std::string expected_id;;) {
    // The path of a base is relative to where its backup really is, not to a symbolic link to it.
    std::error_code missing;
    if (fs::path real = fs::canonical(at, missing); !missing) at = real.string();
    const std::string path = at + "/" + kManifestName;
    std::ifstream in(path, std::ios::binary);
    if (!in) {
      return Error(Code::kNotFound, "{}: cannot be read; {}", path,
                   chain.manifests.empty() ? "check that this is the directory of a finished backup"
                                           : "put the base backup there, because the newer backup needs it");
    }
    std::ostringstream text;
    text << in.rdbuf();
    ASSIGN_OR_RETURN(BackupManifest manifest, DecodeManifest(text.str(), path));
    if (!expected_id.empty() && manifest.id != expected_id) {
      return Error(Code::kInvalidArgument, "{}: this is backup {}, but {} is based on backup {}", path, manifest.id,
                   chain.directories.back(), expected_id);
    }
    if (!chain.manifests.empty() && manifest.partitions.size() != chain.newest().partitions.size()) {
      return Error(Code::kInvalidArgument, "{}: it has {} partitions, but the backup based on it has {}", path,
                   manifest.partitions.size(), chain.newest().partitions.size());
    }
    const std::string base = manifest.base;
    expected_id = manifest.base_id;
    chain.directories.push_back(at);
    chain.manifests.push_back(std::move(manifest));
    if (base.empty()) return chain;
    if (chain.manifests.size() == kMaxChain) {
      return Error(Code::kInvalidArgument, "{}: its chain of base backups is longer than {}", directory, kMaxChain);
    }
    at = fs::path(base).is_absolute() ? base : (fs::path(at) / base).lexically_normal().string();
  }
}

}  // namespace pando::admin
