#include "src/base/ids.h"

#include <fmt/core.h>

namespace pando {

std::string Uuid::ToString() const {
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", hi >> 32, (hi >> 16) & 0xffff, hi & 0xffff, lo >> 48,
                     lo & 0xffffffffffffull);
}

}  // namespace pando
