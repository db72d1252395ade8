#include "src/topology/topology_store.h"

namespace pando {

Status CheckTopologyKey(const std::string& key) {
  bool ok = !key.empty() && key.size() <= kMaxTopologyKeyBytes && key.front() != '/' && key.back() != '/';
  for (size_t i = 0; i < key.size() && ok; ++i) {
    const char c = key[i];
    ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || (c == '/' && key[i - 1] != '/');
  }
  if (ok) return Status();
  return Error(Code::kInvalidArgument,
               "\"{}\" is not a key of the topology: it must have 1 to {} of a-z, 0-9, '_' and '-', in segments "
               "separated by '/'",
               key, kMaxTopologyKeyBytes);
}

Status CheckTopologyValue(const std::string& key, const std::string& value) {
  if (value.size() <= kMaxTopologyValueBytes) return Status();
  return Error(Code::kInvalidArgument, "the value for {} has {} bytes; the topology takes at most {}", key,
               value.size(), kMaxTopologyValueBytes);
}

Status TopologySize::Add(const std::string& key, size_t value_bytes) {
  keys_ += 1;
  bytes_ += key.size() + value_bytes;
  if (value_bytes > kMaxTopologyValueBytes) {
    return Error(Code::kCorruption,
                 "the value of {} has {} bytes, more than the {} that a topology may hold; Pando has not written it",
                 key, value_bytes, kMaxTopologyValueBytes);
  }
  if (keys_ > kMaxTopologyKeys || bytes_ > kMaxTopologyBytes) {
    return Error(Code::kCorruption,
                 "the topology holds more than {} keys or {} bytes; does something else write to the same place?",
                 kMaxTopologyKeys, kMaxTopologyBytes);
  }
  if (!reserves_ || memory_.TryGrow(kEntryBytes + key.size() + value_bytes)) return Status();
  return Error(Code::kOverloaded, "there is no memory to list the topology: its first {} keys have {} bytes", keys_,
               bytes_);
}

}  // namespace pando
