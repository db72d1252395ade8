#include "src/model/key_space.h"

#include <fmt/format.h>

#include <limits>

#include "src/base/codec.h"

namespace pando {
namespace {
constexpr size_t kPrintedKeyBytes = 64;
}  // namespace

std::string KeySpace::Stored(std::string_view key) const {
  std::string stored;
  stored.reserve(bytes_ + key.size());
  stored.append(prefix()).append(key);
  return stored;
}

std::string KeySpace::StoredEnd(std::string_view end) const {
  if (!end.empty() || bytes_ == 0) return Stored(end);
  const auto id = LoadBigEndian32(prefix_.data());
  // Nothing comes after the last namespace.
  return id == std::numeric_limits<NamespaceId>::max() ? std::string() : std::string(KeySpace(id + 1).prefix());
}

SplitKey SplitStoredKey(std::string_view stored, bool namespaced) {
  if (!namespaced || stored.size() < kNamespaceBytes) return {kDefaultNamespace, stored};
  return {LoadBigEndian32(stored.data()), stored.substr(kNamespaceBytes)};
}

std::string PrintableKey(std::string_view stored, bool namespaced) {
  const auto [id, key] = SplitStoredKey(stored, namespaced);
  std::string out;
  if (id != kDefaultNamespace) out = fmt::format("namespace {}: ", id);
  for (unsigned char c : key.substr(0, kPrintedKeyBytes)) {
    if (c >= 0x20 && c < 0x7f && c != '\\') {
      out.push_back(static_cast<char>(c));
    } else {
      out += fmt::format("\\x{:02x}", c);
    }
  }
  return key.size() > kPrintedKeyBytes ? out + "..." : out;
}

}  // namespace pando
