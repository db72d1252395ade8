// KeySpace: how the keys of a namespace are stored.
//
// A stored key is the ID of its namespace, 4 bytes in big-endian order, followed by the key. So the
// records of a namespace are one range of every partition's tree: counts, scans and watches of one
// namespace never see another one. Requests use the namespace 0. The last namespace belongs to the
// store itself, which keeps what it remembers of clients there (src/partition/lane.h).
//
// A store that was created before there were namespaces stores keys as they are
// (StoreInfo::namespaced), and has no reserved namespace.
//
// Threads: values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/limits.h"

namespace pando {

using NamespaceId = uint32_t;
inline constexpr NamespaceId kDefaultNamespace = 0;
inline constexpr NamespaceId kReservedNamespace = 0xffffffff;

class KeySpace {
 public:
  // Stores keys as they are.
  constexpr KeySpace() = default;
  constexpr explicit KeySpace(NamespaceId id)
      : prefix_{static_cast<char>(id >> 24), static_cast<char>(id >> 16), static_cast<char>(id >> 8),
                static_cast<char>(id)},
        bytes_(kNamespaceBytes) {}
  // Of a store's requests.
  static KeySpace Of(bool namespaced) { return namespaced ? KeySpace(kDefaultNamespace) : KeySpace(); }

  // What every stored key of the namespace begins with.
  constexpr std::string_view prefix() const { return {prefix_.data(), bytes_}; }
  void Store(std::string* key) const { key->insert(0, prefix()); }
  std::string Stored(std::string_view key) const;
  // REQUIRES: `stored` is a key of this namespace. The view is into `stored`.
  std::string_view KeyOf(std::string_view stored) const { return stored.substr(bytes_); }
  void Restore(std::string* stored) const { stored->erase(0, bytes_); }
  // The same for the exclusive end of a range of keys, where an empty key means that there is none.
  std::string StoredEnd(std::string_view end) const;

 private:
  std::array<char, kNamespaceBytes> prefix_ = {};
  size_t bytes_ = 0;  // of the prefix: kNamespaceBytes or 0
};

// Of what the store remembers of its clients (src/partition/lane.h).
inline constexpr KeySpace kLaneKeys(kReservedNamespace);
static_assert(kNamespaceBytes == 4, "the prefix is the id");

struct SplitKey {
  NamespaceId namespace_id = kDefaultNamespace;
  std::string_view key;
};
// The parts of a stored key. One that is shorter than a namespace (a separator of pages) is all
// key.
SplitKey SplitStoredKey(std::string_view stored, bool namespaced);

// A stored key for messages: at most 64 bytes of the key. Bytes that are not printable ASCII appear
// as \xNN, and a namespace that is not that of requests is named.
std::string PrintableKey(std::string_view stored, bool namespaced);

}  // namespace pando
